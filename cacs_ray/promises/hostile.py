"""Hand-made bodies that no client in good faith sends, in proper HTTP."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cacs_ray.schema import Column

JSON: Final = "application/json"
DECIDE: Final = "/v1/decide"
_DEEP: Final = 10_000
_MEBIBYTE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class HostileRequest:
    """One request that must be refused or answered, and crash nothing."""

    name: str
    body: bytes = b""
    method: str = "POST"
    path: str = DECIDE
    headers: tuple[tuple[str, str], ...] = (("content-type", JSON),)


def hostile_requests(ad_id: str, creative_id: str) -> list[HostileRequest]:
    """Return bodies around an ad and a creative that the service knows.

    Args:
        ad_id: an ad of the bundle that is served.
        creative_id: one of its creatives.
    """
    known = {Column.AD_ID: ad_id, Column.BID_MICROS: 1000}
    bodies = {
        **_not_json(),
        **_numbers(ad_id),
        **_texts(ad_id),
        **_nested(ad_id),
        **_lists(known, creative_id),
        **_identities(known, creative_id),
    }
    return [HostileRequest(name, body) for name, body in bodies.items()]


def _asked(candidates: list[Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    return {Column.REQUEST_ID: "hostile", "candidates": candidates, **more}


def _not_json() -> dict[str, bytes]:
    return {
        "empty": b"",
        "spaces": b" " * 1000,
        "null": b"null",
        "array": b"[]",
        "number": b"1e400",
        "text": b'"x"',
        "cut short": b'{"request_id":"q","candidates":[{',
        "two values": b"{}{}",
        "a NUL": b"\x00",
        "NULs after the body": b"{}\x00\x00",
        "bad UTF-8": b'{"request_id":"\xff\xfe"}',
        "overlong UTF-8": b'{"request_id":"\xc0\xaf"}',
        "UTF-16": '{"request_id":"q"}'.encode("utf-16"),
        "UTF-32": '{"request_id":"q"}'.encode("utf-32"),
        "byte order mark": b"\xef\xbb\xbf{}",
        "comments": b'{"request_id":"q" /* no */}',
        "a comma too many": b'{"request_id":"q",}',
        "single quotes": b"{'request_id':'q'}",
        "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
        "gzip without saying so": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
        "over a mebibyte": b" " * (_MEBIBYTE + 1),
    }


def _numbers(ad_id: str) -> dict[str, bytes]:
    """Numbers that JSON or float cannot hold, as a bid and as a feature."""
    values = {
        "NaN": "NaN",
        "Infinity": "Infinity",
        "-Infinity": "-Infinity",
        "-0": "-0",
        "-0.0": "-0.0",
        "1e400": "1e400",
        "-1e400": "-1e400",
        "1e-400": "1e-400",
        "5,000 digits": "9" * 5000,
        "hexadecimal": "0x10",
        "a leading zero": "007",
        "a flag": "true",
        "a negative number": "-5",
    }
    template = (
        '{"request_id":"hostile","candidates":[{"ad_id":%s,"bid_micros":%s}],'
        '"features":{%s}}'
    )
    name = json.dumps(ad_id)
    bids = {f"bid {n}": template % (name, v, "") for n, v in values.items()}
    features = {
        f"feature {n}": template % (name, "1", f'"hour":{v},"device":{v}')
        for n, v in values.items()
    }
    slots = {
        "0 slots": json.dumps(_asked([], num_slots=0)),
        "1e9 slots": '{"request_id":"q","num_slots":1e9,"candidates":[]}',
    }
    return {n: text.encode() for n, text in {**bids, **features, **slots}.items()}


def _texts(ad_id: str) -> dict[str, bytes]:
    template = '{"request_id":%s,"candidates":[{"ad_id":%s,"bid_micros":1}],%s}'

    def asked(request_id: str = '"q"', rest: str = '"features":{}') -> bytes:
        return (template % (request_id, json.dumps(ad_id), rest)).encode()

    return {
        "NUL in an id": asked(r'"a\u0000b"'),
        "line break in an id": asked(r'"a\r\nSet-Cookie: x"'),
        "lone surrogate in an id": asked(r'"\ud800"'),
        "lone surrogate as a user": asked(rest=r'"user_id":"\udfff"'),
        "lone surrogate as a feature": asked(rest=r'"features":{"device":"\ud800"}'),
        "lone surrogate as a key": asked(rest=r'"features":{"\udc00":1}'),
        "surrogates in the wrong order": asked(r'"\udc00\ud800"'),
        "an id of 100,000 letters": asked(json.dumps("x" * 100_000)),
        "an empty id": asked('""'),
        "right-to-left override": asked(r'"\u202egnp"'),
        "a feature of 100,000 letters": asked(
            rest='"features":{"query":"' + "x" * 100_000 + '"}'
        ),
        "1,000 features": asked(
            rest=f'"features":{json.dumps({f"f{n}": 1 for n in range(1000)})}'
        ),
        "a file as a feature": asked(rest='"features":{"image":"file:///etc/passwd"}'),
        "an address as a feature": asked(
            rest='"features":{"image":"http://169.254.169.254/latest/meta-data"}'
        ),
        "markup as a key": asked(rest='"features":{"<script>":1}'),
        "a prototype": asked(rest='"features":{"__proto__":{},"__class__":1}'),
        "a format string": asked('"{0.__class__}%s%n"'),
        "time before all times": asked(rest='"request_ts":"0001-01-01T00:00:00+23:59"'),
        "time after all times": asked(rest='"request_ts":"9999-12-31T23:59:59-23:59"'),
        "time as a huge number": asked(rest='"request_ts":1e300'),
        "time without a zone": asked(rest='"request_ts":"2026-01-01T00:00:00"'),
        "leap second": asked(rest='"request_ts":"2016-12-31T23:59:60Z"'),
    }


def _nested(ad_id: str) -> dict[str, bytes]:
    name = json.dumps(ad_id).encode()
    start = b'{"request_id":"q","candidates":[{"ad_id":' + name + b',"bid_micros":1}],'
    return {
        "10,000 arrays deep": b"[" * _DEEP + b"]" * _DEEP,
        "10,000 arrays never closed": b"[" * _DEEP,
        "10,000 objects deep": b'{"a":' * _DEEP + b"1" + b"}" * _DEEP,
        "a feature 10,000 arrays deep": (
            start + b'"features":{"seen":' + b"[" * _DEEP + b"]" * _DEEP + b"}}"
        ),
        "nested objects as a feature": start + b'"features":{"device":{"a":[{}]}}}',
        "keys twice": b'{"request_id":"a","request_id":"b","candidates":[]}',
        "candidates twice": start + b'"candidates":1}',
        "an ad's keys twice": (
            b'{"request_id":"q","candidates":[{"ad_id":"x","ad_id":' + name + b","
            b'"bid_micros":-1,"bid_micros":1}]}'
        ),
        "unknown keys": start + b'"admin":true}',
        "100,000 unknown keys": (
            start[:-1] + b"".join(f',"k{n}":0'.encode() for n in range(80_000)) + b"}"
        ),
    }


def _lists(known: Mapping[str, Any], creative_id: str) -> dict[str, bytes]:
    def with_creatives(ids: list[Any]) -> bytes:
        return json.dumps(_asked([{**known, Column.CREATIVE_IDS: ids}])).encode()

    many = [{**known, Column.AD_ID: f"ad{n}"} for n in range(10_000)]
    return {
        "0 ads": json.dumps(_asked([])).encode(),
        "500 unknown ads": json.dumps(_asked(many[:500])).encode(),
        "501 ads": json.dumps(_asked(many[:501])).encode(),
        "10,000 ads": json.dumps(_asked(many)).encode(),
        "ads as an object": json.dumps(_asked({})).encode(),  # type: ignore[arg-type]
        "0 creatives": with_creatives([]),
        "1 creative": with_creatives([creative_id]),
        "10,000 creatives": with_creatives([f"c{n}" for n in range(10_000)]),
        "10,001 creatives": with_creatives([f"c{n}" for n in range(10_001)]),
        "a creative twice": with_creatives([creative_id, creative_id]),
        "a creative that is null": with_creatives([None]),
        "a creative that is a list": with_creatives([[creative_id]]),
        "a vector of the wrong size": json.dumps(
            _asked([known], features={"taste": [0.5] * 7, "query": [0.5]})
        ).encode(),
        "500 ads and a feature of 4,000 values": json.dumps(
            _asked(many[:500], features={"seen": [1] * 4_000})
        ).encode(),
        "a list of 100,000": json.dumps(
            _asked([known], features={"seen": [1] * 100_000})
        ).encode(),
    }


def _identities(known: Mapping[str, Any], creative_id: str) -> dict[str, bytes]:
    changes: dict[str, dict[str, Any]] = {
        "unknown ad": {Column.AD_ID: "no such ad"},
        "empty ad": {Column.AD_ID: ""},
        "ad that is a number": {Column.AD_ID: 7},
        "unknown creative": {Column.CREATIVE_IDS: ["no such creative"]},
        "pinned unknown creative": {Column.PINNED_CREATIVE_ID: "no such creative"},
        "pinned creative that is not allowed": {
            Column.PINNED_CREATIVE_ID: creative_id,
            Column.CREATIVE_IDS: ["another"],
        },
        "bid of 0": {Column.BID_MICROS: 0},
        "bid of a half": {Column.BID_MICROS: 0.5},
        "bid as text": {Column.BID_MICROS: "1000"},
        "bid beyond 64 bits": {Column.BID_MICROS: 2**64},
        "bid above the limit": {Column.BID_MICROS: 10**12 + 1},
        "bid that is null": {Column.BID_MICROS: None},
    }
    single = {
        name: json.dumps(_asked([{**known, **change}])).encode()
        for name, change in changes.items()
    }
    return {**single, "an ad twice": json.dumps(_asked([known, known])).encode()}
