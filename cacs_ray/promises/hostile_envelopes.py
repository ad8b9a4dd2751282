"""Hand-made envelopes: good bodies that are sent wrongly, and bytes that are no HTTP.

`hostile_envelopes` can be sent by any client, `hostile_bytes` are written to a socket.
"""

import json
from dataclasses import dataclass
from typing import Final

from cacs_ray.promises.hostile import DECIDE, JSON, HostileRequest
from cacs_ray.schema import Column

_NEVER_BEGUN: Final = frozenset(
    {"nothing at all", "no HTTP", "HTTP/0.9", "a line that never ends"}
)


@dataclass(frozen=True, slots=True)
class HostileBytes:
    """What is written to a fresh connection, piece by piece."""

    name: str
    pieces: tuple[bytes, ...]
    pause_s: float = 0.0
    """Before each further piece."""
    is_left_open: bool = True
    """Else the client closes its side when all is written."""
    is_answer_owed: bool = True
    """False where no request was ever begun: nobody waits for an answer."""


def hostile_envelopes(ad_id: str) -> list[HostileRequest]:
    """Return a good body, about an ad that the service knows, in wrong envelopes."""
    asked = {Column.AD_ID: ad_id, Column.BID_MICROS: 1000}
    good = json.dumps({Column.REQUEST_ID: "hostile", "candidates": [asked]}).encode()
    clicked = {Column.REQUEST_ID: "hostile", Column.AD_ID: ad_id}

    def headed(name: str, **headers: str) -> HostileRequest:
        pairs = {"content_type": JSON, **headers}
        named = tuple((key.replace("_", "-"), pairs[key]) for key in pairs)
        return HostileRequest(name, good, headers=named)

    return [
        HostileRequest("text/plain", good, headers=(("content-type", "text/plain"),)),
        HostileRequest("a form", b"a=1", headers=(("content-type", "x/y; a=;;"),)),
        HostileRequest("no content type", good, headers=()),
        HostileRequest(
            "a click from a page of another site",
            json.dumps({"clicks": [clicked]}).encode(),
            path="/v1/clicks",
            headers=(("origin", "http://evil.example"),),
        ),
        headed("gzip that is none", content_encoding="gzip"),
        headed("an encoding that nobody knows", content_encoding="br, zstd, x"),
        headed("another character set", content_type="application/json; charset=utf-7"),
        HostileRequest(
            "two content types",
            good,
            headers=(("content-type", JSON), ("content-type", "text/plain")),
        ),
        headed("no time to answer", x_request_timeout_ms="0"),
        headed("time to answer NaN", x_request_timeout_ms="nan"),
        headed("time to answer 1e400", x_request_timeout_ms="1e400"),
        headed("time to answer of 5,000 digits", x_request_timeout_ms="9" * 5000),
        headed("1 ms to answer", x_request_timeout_ms="1"),
        *_foreign_hosts(good),
        headed("a foreign origin", origin="http://evil.example"),
        headed("another address forwarded", x_forwarded_for="' or 1=1 --"),
        HostileRequest("explain that is no flag", good, path=f"{DECIDE}?explain=9e9"),
        HostileRequest("NUL in the query", good, path=f"{DECIDE}?explain=%00"),
        HostileRequest(
            "a query of 20,000 letters", good, path=f"{DECIDE}?{'x' * 20_000}"
        ),
        HostileRequest(
            "a path upwards", method="GET", path="/%2e%2e/%2e%2e/etc/passwd"
        ),
        HostileRequest("a path with NUL", method="GET", path="/docs%00.html"),
        HostileRequest("a path that is no UTF-8", method="GET", path="/%ff%fe"),
        HostileRequest("slashes", method="GET", path="//v1//decide/"),
        HostileRequest("a body with GET", good, method="GET", path="/healthz"),
        HostileRequest("TRACE", method="TRACE"),
        HostileRequest("a method that nobody knows", good, method="BREW"),
    ]


def _foreign_hosts(good: bytes) -> list[HostileRequest]:
    """Return what a page sends whose own name was given the service's address."""
    json_of = ("content-type", JSON)
    return [
        HostileRequest(
            "a foreign host", good, headers=(json_of, ("host", "evil.example"))
        ),
        HostileRequest(
            "a foreign host that begins like ours",
            good,
            headers=(json_of, ("host", "127.0.0.1.evil.example:8000")),
        ),
        HostileRequest(
            "our host and a foreign one",
            good,
            headers=(json_of, ("host", "localhost"), ("host", "evil.example")),
        ),
        HostileRequest(
            "a foreign host asks after health",
            method="GET",
            path="/healthz",
            headers=(("host", "evil.example"),),
        ),
        HostileRequest(
            "an empty host", good, headers=(json_of, ("host", "")), path="/v1/preview"
        ),
    ]


def hostile_bytes(host: str) -> list[HostileBytes]:
    """Return what breaks HTTP, for a service at `host` (its name and port)."""
    made = [
        HostileBytes(name, pieces, is_answer_owed=name not in _NEVER_BEGUN)
        for name, pieces in _broken_at_once(host).items()
    ]
    return [*made, *_broken_in_time(host)]


def _top(host: str) -> str:
    return f"POST {DECIDE} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {JSON}\r\n"


def _broken_at_once(host: str) -> dict[str, tuple[bytes, ...]]:
    """Return bytes that no client of HTTP would send, by what is wrong."""
    top = _top(host)
    return {
        "nothing at all": (b"",),
        "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,),
        "HTTP/0.9": (b"GET /\r\n",),
        "HTTP/9.9": (f"GET / HTTP/9.9\r\nHost: {host}\r\n\r\n".encode(),),
        "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",),
        "another server's address": (
            f"GET http://169.254.169.254/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(),
        ),
        "CONNECT": (b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n",),
        "no host": (b"GET /healthz HTTP/1.1\r\n\r\n",),
        "NUL in a header": (f"{top}X: a\0b\r\nContent-Length: 2\r\n\r\n{{}}".encode(),),
        "a line that never ends": (b"GET /" + b"x" * 300_000,),
        "100,000 headers": (
            (top + "".join(f"X{n}: y\r\n" for n in range(100_000)) + "\r\n").encode(),
        ),
        "a negative length": (f"{top}Content-Length: -1\r\n\r\n{{}}".encode(),),
        "two lengths": (
            f"{top}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}".encode(),
        ),
        "length and chunks": (
            f"{top}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
            "0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n".encode(),
        ),
        "a chunk of wrong size": (
            f"{top}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n".encode(),
        ),
        "a chunk of 2^64": (
            f"{top}Transfer-Encoding: chunked\r\n\r\n{'f' * 17}\r\n{{}}".encode(),
        ),
    }


def _broken_in_time(host: str) -> list[HostileBytes]:
    """Return requests that stop, crawl or wait, each for an answer that is owed."""
    top = _top(host)
    long = f"{top}Content-Length: 100\r\n\r\n{{}}".encode()
    drops = tuple(b" " for _ in range(20))
    return [
        HostileBytes("a body that stops", (long,)),
        HostileBytes("a body that is cut", (long,), is_left_open=False),
        HostileBytes("a slow body", (long, *drops), pause_s=0.5),
        HostileBytes(
            "slow headers", (top.encode(), *drops), pause_s=0.5, is_answer_owed=False
        ),
        HostileBytes(
            "a length beyond what is allowed",
            (f"{top}Content-Length: {10**15}\r\n\r\n{{}}".encode(),),
        ),
        HostileBytes(
            "expecting to continue",
            (f"{top}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n".encode(),),
        ),
    ]
