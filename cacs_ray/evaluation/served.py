"""A release behind the service itself: started, asked over HTTP, ended.

The gate starts `python -m serve.alone` with the bundle: HTTP routes, gateway and stages
of a replica in a process of their own, without Ray, so that it works inside a submitted
job too. What it answers to the golden requests must be what `decide()` says here.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pyarrow as pa

from cacs_ray.answers.local import decide_requests
from cacs_ray.bundle import Predictor
from cacs_ray.cluster import SPIN_COUNT
from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.evaluation.replica import requests_of
from cacs_ray.golden import TOLERANCE
from cacs_ray.local_server import LOOPBACK, free_port
from cacs_ray.schema import REQUESTS, Column

READY_S: Final = 120.0
"""So long a service may take until it is ready, on a machine that is busy."""
_WHOLE_S: Final = 10.0
"""The same from its first answer on: it has loaded by then, and only has to decide."""
_PASSING: Final = ("late", "busy")
"""In the reason that /healthz gives: the machine is, and has the whole time."""
_ANSWER_S: Final = 30.0
_BUDGET_MS: Final = 5_000
"""Time to answer in. Latency is another check: here a busy moment is no fallback."""
_GRACE_S: Final = 10.0
_POLL_S: Final = 0.1
_MB: Final = 1e6
_SECRETS: Final = {"CACS_ADMIN_TOKEN", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD"}
_PORT_TAKEN: Final = "address already in use"
_ROOT: Final = Path(__file__).resolve().parents[2]
_LOG: Final = "service.log"
_LAST_LINES: Final = 3
_MOST_TOLD: Final = 300

_SETTINGS: Final = DecisionSettings(policy="cacs", num_slots=3)
_SAME: Final = (Column.CREATIVE_ID, Column.SLOT)
_CLOSE: Final = (
    *(Column.PROPENSITY, Column.SELECTOR_SCORE),
    *(Column.PCTR, Column.ECPM_MICROS),
)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Golden:
    """One golden request and what it must get."""

    body: Mapping[str, Any]
    """As it goes over the wire."""
    decisions: Mapping[str, Row]
    """Ad -> its row of `schema.DECISIONS`."""
    release: str


def try_service(bundle: str | Path, *, ready_s: float = READY_S) -> dict[str, Any]:
    """Start the service with a bundle, ask the golden requests over HTTP, end it.

    Once more on another port if somebody took the first one meanwhile.

    Args:
        bundle: its directory.
        ready_s: as of `READY_S`.

    Returns:
        `error` (why it cannot serve, with the last lines that the service wrote; else
        None), `rows` (candidate ads that were answered alike), `ready_s` (seconds
        from its start until /readyz was 200) and `memory_mb` (resident, 10^6 bytes,
        after the requests); what was not reached is None.
    """
    told = _tried(Path(bundle).absolute(), ready_s)
    if _PORT_TAKEN in (told["error"] or "").lower():
        told = _tried(Path(bundle).absolute(), ready_s)
    return told


def _tried(root: Path, ready_s: float) -> dict[str, Any]:
    told: dict[str, Any] = dict.fromkeys(("error", "rows", "ready_s", "memory_mb"))
    with tempfile.TemporaryDirectory(prefix="cacs-gate-") as scratch:
        place = Path(scratch)
        started = time.perf_counter()
        try:
            with _service(root, place, os.getpid()) as (process, client):
                # It starts meanwhile.
                asked = golden_of(root)
                _wait_until_ready(process, client, ready_s)
                told["ready_s"] = time.perf_counter() - started
                told["rows"] = sum(_answered_alike(client, one) for one in asked)
                memory = psutil.Process(process.pid).memory_info()
                told["memory_mb"] = memory.rss / _MB
        except (ValueError, RuntimeError, httpx.HTTPError, psutil.Error) as error:
            told["error"] = f"{error}{_last_words(place / _LOG)}"
    return told


def golden_of(bundle: str | Path) -> list[Golden]:
    """Return a bundle's golden requests with what `decide()` answers to each.

    Raises:
        InputError: not a whole bundle.
    """
    predictor = Predictor.load(bundle)
    return [
        Golden(
            body=_body(requests),
            decisions={
                row[Column.AD_ID]: row
                # One by one, as the service decides them.
                for row in decide_requests(predictor, requests, _SETTINGS)[0]
                .select([Column.AD_ID, *_SAME, *_CLOSE])
                .to_pylist()
            },
            release=predictor.bundle_id,
        )
        for requests in requests_of(str(bundle), predictor)
    ]


def difference(answer: Mapping[str, Any], golden: Golden) -> str | None:
    """Say how an answer of the service is not what it must be.

    Args:
        answer: body of POST /v1/decide with `explain=true`.
        golden: the request that was asked.

    Returns:
        None where release and decisions are the same: creatives and slots exactly,
        scores but for rounding.
    """
    if answer[Column.RELEASE] != golden.release:
        return f"release {answer['release']} answered, not {golden.release}"
    if answer[Column.IS_FALLBACK]:
        return f"a fallback answered: {answer[Column.FALLBACK_REASON]}"
    decided = {row[Column.AD_ID]: row for row in answer["decisions"]}
    if decided.keys() != golden.decisions.keys():
        only = sorted(decided.keys() ^ golden.decisions.keys())
        return f"ads were decided by one side alone: {', '.join(only[:3])}"
    for ad, row in golden.decisions.items():
        for name in (*_SAME, *_CLOSE):
            if not _is_same(name, decided[ad][name], row[name]):
                return f"{name} of ad {ad!r} is {decided[ad][name]}, not {row[name]}"
    return _placed_otherwise(answer["placements"], golden)


def _placed_otherwise(placements: Sequence[Row], golden: Golden) -> str | None:
    """Compare what is shown, slot by slot, which is what users get."""
    shown = [row for row in golden.decisions.values() if row[Column.SLOT] is not None]
    names = (Column.SLOT, Column.AD_ID, Column.CREATIVE_ID)
    found, wanted = (
        sorted(tuple(row[name] for name in names) for row in rows)
        for rows in (placements, shown)
    )
    return None if found == wanted else f"{found} are shown, not {wanted}"


def _is_same(name: str, found: object, wanted: object) -> bool:
    if name in _SAME or not isinstance(wanted, float):
        return found == wanted
    if not isinstance(found, int | float):
        return False
    # Scores may lie around 0, where no relative difference is small.
    return math.isclose(found, wanted, rel_tol=TOLERANCE, abs_tol=TOLERANCE / 100)


def _body(requests: pa.Table) -> dict[str, Any]:
    """Return the rows of one request as the service takes them."""
    rows = requests.to_pylist()
    first = rows[0]
    return {
        Column.REQUEST_ID: first[Column.REQUEST_ID],
        Column.REQUEST_TS: first[Column.REQUEST_TS].isoformat(),
        Column.USER_ID: first[Column.USER_ID],
        "features": {
            name: value
            for name, value in first.items()
            if name not in REQUESTS.names and value is not None
        },
        "candidates": [
            {name: row[name] for name in (Column.AD_ID, Column.BID_MICROS)}
            for row in rows
        ],
        "num_slots": _SETTINGS.num_slots,
    }


def _answered_alike(client: httpx.Client, golden: Golden) -> int:
    """Ask one golden request; return how many ads were decided.

    Raises:
        RuntimeError: the service answers anything else.
    """
    name = golden.body[Column.REQUEST_ID]
    explained = {"explain": "true"}
    answer = client.post("/v1/decide", params=explained, json=golden.body)
    if answer.status_code != httpx.codes.OK:
        said = answer.text[:_MOST_TOLD]
        raise RuntimeError(f"{name} was answered {answer.status_code}: {said}")
    found = difference(answer.json(), golden)
    if found is not None:
        raise RuntimeError(f"{name} over HTTP: {found}")
    return len(golden.decisions)


@contextmanager
def _service(
    bundle: Path, place: Path, ends_with: int
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """Start the service; end it whatever happens.

    Args:
        bundle: what it serves.
        place: gets its log and its release board.
        ends_with: a process that it does not outlive, however that ends.
    """
    port = free_port()
    said = {
        "bundle": bundle,
        "port": port,
        "state": place / "state",
        "policy": _SETTINGS.policy,
        "epsilon": _SETTINGS.epsilon,
        "budget_ms": _BUDGET_MS,
        "ends_with": ends_with,
    }
    command = [sys.executable, "-m", "serve.alone"]
    with (place / _LOG).open("wb") as stream:
        # In this process's own group: who kills a job's group at once ends it too.
        process = subprocess.Popen(
            command + [f"{name}={value}" for name, value in said.items()],
            cwd=_ROOT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    try:
        with httpx.Client(
            base_url=f"http://{LOOPBACK}:{port}",
            timeout=_ANSWER_S,
            # No proxy of the machine stands before its own loopback address.
            trust_env=False,
        ) as client:
            yield process, client
    finally:
        _end(process)


def _environment() -> dict[str, str]:
    """Return this process's variables but for its secrets, which are not asked for."""
    kept = {k: v for k, v in os.environ.items() if k not in _SECRETS}
    return {**kept, "GOMP_SPINCOUNT": SPIN_COUNT}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, then make it."""
    try:
        process.terminate()
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # Also when a second Ctrl-C comes; nothing happens to one that has ended.
        process.kill()
        process.wait()


def _wait_until_ready(
    process: subprocess.Popen[bytes], client: httpx.Client, most_s: float
) -> None:
    """Return once /readyz, which decides a request, says so.

    Raises:
        RuntimeError: the service ended, or was not ready in time.
    """
    started = time.monotonic()
    deadline = started + most_s
    said = "it did not answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with {process.returncode}")
        try:
            if client.get("/readyz").status_code == httpx.codes.OK:
                return
            said = client.get("/healthz").text[:_MOST_TOLD]
            if not any(busy in said for busy in _PASSING):
                # It has loaded what it serves: what fails now does not mend itself.
                deadline = min(deadline, time.monotonic() + _WHOLE_S)
        except httpx.TransportError:
            pass
        time.sleep(_POLL_S)
    waited_s = time.monotonic() - started
    raise RuntimeError(f"the service was not ready after {waited_s:.0f} s: {said}")


def _last_words(log: Path) -> str:
    """Return the last lines that the service wrote, to stand behind an error."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    lines = [_message(line) for line in text.splitlines() if line.strip()]
    # Who fails again and again says the same.
    last = list(dict.fromkeys(lines))[-_LAST_LINES:]
    return f"; it said: {' | '.join(last)}" if last else ""


def _message(line: str) -> str:
    """Return what a structured record says, or the line as it is."""
    try:
        told = str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        told = line.strip()
    return told[:_MOST_TOLD]
