"""Nothing that comes over HTTP crashes the service: the check."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import httpx

from cacs_ray.promises.bench import Bench
from cacs_ray.promises.fault_proxy import Fault, fault_proxy
from cacs_ray.promises.fuzz import Send, fuzz
from cacs_ray.promises.hostile import HostileRequest, hostile_requests
from cacs_ray.promises.hostile_envelopes import (
    HostileBytes,
    hostile_bytes,
    hostile_envelopes,
)
from cacs_ray.promises.judges import judge_survival
from cacs_ray.promises.load import NO_ANSWER
from cacs_ray.promises.service import Service
from cacs_ray.promises.verdict import Outcome, Verdict
from cacs_ray.schema import Column

_TIMEOUT_S: Final = 20.0
_SEED: Final = 20_260_501
_CLOSED: Final = 1
"""The service closed the connection without a word, which breaks nothing."""


def hostile(bench: Bench) -> Outcome:
    """Hand-made and generated hostile requests; the service lives and answers."""
    service = bench.plain()
    count = bench.plan.count(10_000, least=300)
    verdicts = (
        _survived(service, "hand-made requests", lambda: _hand_made(service)),
        _survived(service, "hand-made bytes", lambda: _raw(service)),
        _survived(
            service, f"generated, seed {_SEED}", lambda: _generated(service, count)
        ),
    )
    with fault_proxy(service.graph.url, Fault(share=0.1, status=500)) as spoilt:
        control = _survived(
            service,
            "hand-made requests",
            lambda: _hand_made(service, spoilt),
        )
    total = sum(one.asked for one in verdicts)
    return Outcome(
        "hostile HTTP",
        f"{total:,} requests, {service.setting}",
        verdicts,
        (control,),
        "a proxy that answers every tenth with 500",
    )


def _survived(
    service: Service, check: str, ask: Callable[[], list[tuple[str, int]]]
) -> Verdict:
    """Ask, then see whether the actors are the same and still answer."""
    before = {actor.pid: actor.name for actor in service.actors()}
    outcomes = ask()
    after = {actor.pid for actor in service.actors()}
    restarted = [name for pid, name in before.items() if pid not in after]
    answer = httpx.get(f"{service.graph.url}/healthz", timeout=_TIMEOUT_S)
    outcomes.append(("healthz afterwards", answer.status_code))
    if answer.status_code != httpx.codes.OK:
        restarted.append(f"healthz {answer.status_code}")
    return judge_survival(check, outcomes, restarted=restarted)


def _hand_made(service: Service, base: str | None = None) -> list[tuple[str, int]]:
    some = json.loads(service.bodies.body(0, "q"))["candidates"][0]
    listed = hostile_requests(some[Column.AD_ID], some[Column.CREATIVE_IDS][0])
    listed += hostile_envelopes(some[Column.AD_ID])
    send = sender(base or service.graph.url)
    return [(one.name, send(one)) for one in listed]


def _raw(service: Service) -> list[tuple[str, int]]:
    where = urlsplit(service.graph.url)
    host, port = str(where.hostname), int(where.port or 80)
    cases = hostile_bytes(f"{host}:{port}")
    return [(one.name, write_raw(host, port, one)) for one in cases]


def _generated(service: Service, count: int) -> list[tuple[str, int]]:
    described = httpx.get(f"{service.graph.url}/openapi.json", timeout=_TIMEOUT_S)
    asked = json.loads(service.bodies.body(0, "q"))["candidates"]
    ids = [one[Column.AD_ID] for one in asked]
    creatives = [name for one in asked[:5] for name in one[Column.CREATIVE_IDS]]
    known = {
        Column.AD_ID: ids,
        Column.CREATIVE_IDS: creatives,
        Column.PINNED_CREATIVE_ID: creatives,
    }
    send = sender(service.graph.url)
    return fuzz(described.json(), known, send, count=count, seed=_SEED)


def sender(base: str) -> Send:
    """Return what sends requests to an address, over one connection while it lasts.

    The standard library's client, because it sends what it is told: others mend or
    refuse paths and headers.
    """
    where = urlsplit(base)
    host, port = str(where.hostname), int(where.port or 80)
    link = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)

    def send(request: HostileRequest) -> int:
        for _ in range(2):  # once more when the service closed an idle connection
            try:
                return _exchange(link, request)
            except TimeoutError:
                link.close()
                return NO_ANSWER
            except (http.client.HTTPException, OSError):
                link.close()
        return _CLOSED

    return send


def _exchange(link: http.client.HTTPConnection, request: HostileRequest) -> int:
    named = {name.lower() for name, _ in request.headers}
    link.putrequest(
        request.method,
        request.path,
        skip_host="host" in named,
        skip_accept_encoding=True,
    )
    for name, value in request.headers:
        link.putheader(name, value)
    link.putheader("content-length", str(len(request.body)))
    link.endheaders(request.body)
    answer = link.getresponse()
    answer.read()
    return answer.status


def write_raw(host: str, port: int, case: HostileBytes) -> int:
    """Write bytes to a fresh connection and return the status that comes back.

    Returns:
        The status; 1 when the connection was closed without one, or nothing was owed;
        0 when an answer was owed and did not come.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    with socket.create_connection((host, port), timeout=_TIMEOUT_S) as link:
        # The service may close while we write: its answer, if any, can still be read.
        with contextlib.suppress(OSError):
            for number, piece in enumerate(case.pieces):
                if number:
                    time.sleep(case.pause_s)
                link.sendall(piece)
            if not case.is_left_open:
                link.shutdown(socket.SHUT_WR)
        link.settimeout(
            max(deadline - time.monotonic(), 1.0) if case.is_answer_owed else 1.0
        )
        try:
            said = link.recv(64)
        except TimeoutError:
            return NO_ANSWER if case.is_answer_owed else _CLOSED
        except OSError:
            return _CLOSED
    words = said.split()
    is_status = len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit()
    return int(words[1]) if is_status else _CLOSED
