"""Nothing that comes over HTTP crashes the service: the check."""

import contextlib
import json
import math
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import httpx

from cacs_ray.data.files import write_json
from cacs_ray.promises.bench import Bench
from cacs_ray.promises.fault_proxy import Fault, fault_proxy
from cacs_ray.promises.fuzz import Fuzz, Operation
from cacs_ray.promises.hostile import hostile_requests
from cacs_ray.promises.hostile_envelopes import (
    HostileBytes,
    hostile_bytes,
    hostile_envelopes,
)
from cacs_ray.promises.judges import judge_survival
from cacs_ray.promises.load import NO_ANSWER
from cacs_ray.promises.senders import CLOSED, TIMEOUT_S, Senders, sender
from cacs_ray.promises.service import Plan, Service
from cacs_ray.promises.verdict import Outcome, Verdict
from cacs_ray.schema import Column

_SEED: Final = 20_260_501
_REFUSED_SHARE: Final = 0.02
"""Of the requests to a route that reads a body: to each pair that refuses them."""
_TOGETHER: Final[dict[str, str]] = {
    "answers": "routes by methods without a body",
    "refuses": "routes by methods that they refuse",
}
"""Kinds of operations that are judged together, and what they are called."""


def hostile(bench: Bench) -> Outcome:
    """Hand-made and generated hostile requests; the service lives and answers."""
    service = bench.plain()
    verdicts = (
        _survived(service, "hand-made requests", lambda: _hand_made(service)),
        _survived(service, "hand-made bytes", lambda: _raw(service)),
        *_generated(service, bench.plan),
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
    said = statuses(outcomes)
    after = {actor.pid for actor in service.actors()}
    restarted = [name for pid, name in before.items() if pid not in after]
    answer = httpx.get(f"{service.graph.url}/healthz", timeout=TIMEOUT_S)
    outcomes.append(("healthz afterwards", answer.status_code))
    if answer.status_code != httpx.codes.OK:
        restarted.append(f"healthz {answer.status_code}")
    return judge_survival(check, outcomes, restarted=restarted, note=said)


def statuses(outcomes: Sequence[tuple[str, int]]) -> str:
    """Return how often each status came, most often first."""
    counts = Counter(status for _, status in outcomes)
    return ", ".join(f"{status} x {num:,}" for status, num in counts.most_common())


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


def _generated(service: Service, plan: Plan) -> list[Verdict]:
    """Send generated requests to every route by every method.

    Each that reads a body gets the whole number by itself; those that answer without
    one get it together; each of those that refuse gets its share of it.
    """
    described = httpx.get(f"{service.graph.url}/openapi.json", timeout=TIMEOUT_S)
    fuzz = Fuzz(described.json(), _known(service), _SEED, service.admin_token)
    groups: dict[str, list[Operation]] = {}
    for one in fuzz.operations():
        groups.setdefault(_TOGETHER.get(one.kind, f"{one}"), []).append(one)
    sent, verdicts = Counter[str](), []
    with Senders(service.graph.url) as senders:

        def ask(operations: list[Operation], each: int) -> list[tuple[str, int]]:
            for one in operations:
                fuzz.send(one, senders.ask, each)
            outcomes = senders.outcomes()
            sent.update(f"{name}: {status}" for name, status in outcomes)
            return outcomes

        for name, operations in groups.items():
            each = _each(operations, plan.count(10_000, least=50))
            size = f", {len(operations)} x {each:,}" if len(operations) > 1 else ""
            check = f"generated, {name}{size}, seed {_SEED}"
            verdicts.append(_survived(service, check, partial(ask, operations, each)))
    write_json(plan.out / "raw" / "hostile-generated.json", sent)
    return verdicts


def _each(operations: Sequence[Operation], count: int) -> int:
    """Return how many requests each of some operations of one kind gets."""
    if operations[0].kind == "refuses":
        return math.ceil(_REFUSED_SHARE * count)
    return math.ceil(count / len(operations))


def _known(service: Service) -> dict[str, list[str]]:
    """Return values that the service knows, by the names of properties."""
    asked = json.loads(service.bodies.body(0, "q"))["candidates"]
    ids = [one[Column.AD_ID] for one in asked]
    creatives = [name for one in asked[:5] for name in one[Column.CREATIVE_IDS]]
    return {
        Column.AD_ID: ids,
        "ad_ids": ids,
        Column.CREATIVE_IDS: creatives,
        Column.PINNED_CREATIVE_ID: creatives,
    }


def write_raw(host: str, port: int, case: HostileBytes) -> int:
    """Write bytes to a fresh connection and return the status that comes back.

    Returns:
        The status; 1 when the connection was closed without one, or nothing was owed;
        0 when an answer was owed and did not come.
    """
    deadline = time.monotonic() + TIMEOUT_S
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as link:
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
            return NO_ANSWER if case.is_answer_owed else CLOSED
        except OSError:
            return CLOSED
    words = said.split()
    is_status = len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit()
    return int(words[1]) if is_status else CLOSED
