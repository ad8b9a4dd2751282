"""The open-loop load client: sends on schedule, whatever the answers do.

Latency counts from the scheduled arrival: what waited behind a slow answer, in the
client or in the service, is part of it. How late the client itself was stands beside
it, so that a figure of a busy client is never taken for one of the service.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import polars as pl

from cacs_ray.errors import InputError
from cacs_ray.promises.arrivals import MAX_ARRIVALS
from cacs_ray.schema import Column

_LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_START_DELAY_S: Final = 0.05
_ANSWERED: Final = 200

SHOTS: Final = pl.Schema(
    {
        "shot_id": pl.String,
        "scheduled_s": pl.Float64,
        "lag_ms": pl.Float64,
        "latency_ms": pl.Float64,
        "status": pl.Int32,
        "first_status": pl.Int32,
        "has_retry_after": pl.Boolean,
        "answered_as": pl.String,
        "fallback": pl.String,
        "error": pl.String,
        "placements": pl.String,
    }
)
"""One row per request, in the order of the schedule.

`shot_id` the request's id; `scheduled_s` seconds since the start of the run; `lag_ms`
how late the client sent it; `latency_ms` from the scheduled arrival to the whole
answer; `status` of HTTP, 0 = no answer, -1 = the client hung up as told, -2 = not
sent because too many were open; `first_status` that of the first try; `answered_as`
the bundle that answered; `fallback` why a stage was replaced, null = none was;
`error` the class of exception when there was no answer; `placements` of the answer as
JSON, where `keeps_answers` asks for it.
"""
NO_ANSWER, HUNG_UP, NOT_SENT = 0, -1, -2


class Bodies(Protocol):
    """Makes the body of the n-th request."""

    def body(self, index: int, request_id: str) -> bytes:
        """Return JSON; `index` counts from 0 and may exceed the different bodies."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and what they ask."""

    url: str
    """Whole address of the route, with its query; on the loopback address."""
    bodies: Bodies
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if urlsplit(self.url).hostname not in _LOOPBACK_HOSTS:
            raise InputError(f"{self.url} is not on this machine", rule="loopback_only")


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """What bounds a run."""

    max_open: int = 2_000
    """Requests without an answer; more are not sent, and counted."""
    timeout_s: float = 10.0
    """From the scheduled arrival to the whole answer."""
    num_retries: int = 0
    """Further tries of a request that failed."""
    retry_pause_s: float = 0.0
    """Before each of them; the service asks for 1 s in Retry-After."""
    hang_up_share: float = 0.0
    """Of the requests, drawn by `seed`: the client closes the connection early."""
    hang_up_after_s: float = 0.005
    seed: int = 0
    keeps_answers: bool = False
    name: str = "load"
    """Begins the request ids, which must differ between runs."""


def run_load(
    target: Target, arrivals_s: np.ndarray, limits: LoadLimits | None = None
) -> pl.DataFrame:
    """Send one request per arrival and return when all are answered or given up.

    Args:
        target: where to.
        arrivals_s: float [N] seconds since the start, ascending.
        limits: how many may be open, how long one may take.

    Returns:
        A row of `SHOTS` per arrival.
    """
    return asyncio.run(_Run(target, arrivals_s, limits or LoadLimits()).play())


def measure_capacity(
    target: Target,
    *,
    duration_s: float,
    concurrency: int = 4,
    most: int = MAX_ARRIVALS,
    name: str = "capacity",
) -> tuple[float, pl.DataFrame]:
    """Return what the service answers a second when always `concurrency` wait.

    A closed loop: good for the most that can be answered, not for latencies.

    Args:
        target: where to.
        duration_s: seconds, > 0.
        concurrency: requests that are open all the time, >= 1; with more than a
            gateway answers in full, part of them is answered more cheaply, and with
            more than it has places for part of its time goes into refusals.
        most: requests; when they are sent, the run ends before its time.
        name: begins the request ids.

    Returns:
        Answers with status 200 a second, and the rows of all requests.
    """
    limits = LoadLimits(name=name)
    run = _Run(target, np.zeros(0), limits)
    return asyncio.run(run.saturate(duration_s, concurrency, most))


@dataclass(slots=True)
class _Shot:
    shot_id: str
    scheduled_s: float
    lag_ms: float = 0.0
    latency_ms: float = 0.0
    status: int = NO_ANSWER
    first_status: int = NO_ANSWER
    has_retry_after: bool = False
    answered_as: str | None = None
    fallback: str | None = None
    error: str | None = None
    placements: str | None = None


class _Run:
    """One run: its shots, and the clock that they are counted from."""

    def __init__(
        self, target: Target, arrivals_s: np.ndarray, limits: LoadLimits
    ) -> None:
        self._target = target
        self._limits = limits
        self._shots = [
            _Shot(f"{limits.name}-{index}", float(arrival))
            for index, arrival in enumerate(arrivals_s)
        ]
        rng = np.random.default_rng(limits.seed)
        self._hangs_up = rng.random(len(self._shots)) < limits.hang_up_share
        self._num_open = 0
        self._started = 0.0

    async def play(self) -> pl.DataFrame:
        """Send all on schedule."""
        async with self._session() as session, asyncio.TaskGroup() as tasks:
            self._started = time.perf_counter() + _START_DELAY_S
            for index, shot in enumerate(self._shots):
                await asyncio.sleep(
                    max(0.0, self._started + shot.scheduled_s - time.perf_counter())
                )
                shot.lag_ms = self._since_ms(shot)
                if self._num_open >= self._limits.max_open:
                    shot.status = shot.first_status = NOT_SENT
                    continue
                self._num_open += 1
                tasks.create_task(self._fire(session, index, shot))
        return _as_table(self._shots)

    async def saturate(
        self, duration_s: float, concurrency: int, most: int
    ) -> tuple[float, pl.DataFrame]:
        """Keep `concurrency` requests open for a time, or until enough were sent."""

        async def loop(session: aiohttp.ClientSession) -> None:
            while (now_s := time.perf_counter() - self._started) < duration_s:
                if (index := len(self._shots)) >= most:
                    break
                shot = _Shot(f"{self._limits.name}-{index}", now_s)
                self._shots.append(shot)
                await self._try(session, index, shot)

        async with self._session() as session:
            self._started = time.perf_counter()
            async with asyncio.TaskGroup() as tasks:
                for _ in range(concurrency):
                    tasks.create_task(loop(session))
        seconds = time.perf_counter() - self._started
        answered = sum(shot.status == _ANSWERED for shot in self._shots)
        return answered / seconds, _as_table(self._shots)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers={"content-type": "application/json", **self._target.headers},
            trust_env=False,
        )

    def _since_ms(self, shot: _Shot) -> float:
        return 1e3 * (time.perf_counter() - self._started - shot.scheduled_s)

    async def _fire(
        self, session: aiohttp.ClientSession, index: int, shot: _Shot
    ) -> None:
        try:
            if self._hangs_up[index]:
                await self._hang_up(session, index, shot)
                return
            for attempt in range(1 + self._limits.num_retries):
                if attempt:
                    await asyncio.sleep(self._limits.retry_pause_s)
                await self._try(session, index, shot)
                if attempt == 0:
                    shot.first_status = shot.status
                if shot.status == _ANSWERED:
                    break
        finally:
            self._num_open -= 1

    async def _try(
        self, session: aiohttp.ClientSession, index: int, shot: _Shot
    ) -> None:
        shot.status, shot.error = NO_ANSWER, None
        left_s = self._limits.timeout_s - self._since_ms(shot) / 1e3
        body = self._target.bodies.body(index, shot.shot_id)
        try:
            async with asyncio.timeout(max(left_s, 0.001)):
                async with session.post(self._target.url, data=body) as answer:
                    content = await answer.read()
            shot.status = answer.status
            shot.has_retry_after = "Retry-After" in answer.headers
            _read_answer(shot, content, keeps=self._limits.keeps_answers)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            shot.error = type(error).__name__
        shot.latency_ms = self._since_ms(shot)

    async def _hang_up(
        self, session: aiohttp.ClientSession, index: int, shot: _Shot
    ) -> None:
        """Close the connection early; an answer that was quicker counts as one."""
        sent = asyncio.create_task(self._try(session, index, shot))
        done, _ = await asyncio.wait({sent}, timeout=self._limits.hang_up_after_s)
        if not done:
            # Cancelling closes the connection: nobody reads an answer any more.
            sent.cancel()
            await asyncio.wait({sent})
            shot.status = HUNG_UP
            shot.latency_ms = self._since_ms(shot)
        shot.first_status = shot.status


def _read_answer(shot: _Shot, content: bytes, *, keeps: bool) -> None:
    """Note which bundle answered and whether a stage was replaced."""
    if shot.status != _ANSWERED:
        return
    answer: dict[str, Any] = json.loads(content)
    shot.answered_as = answer.get("release")
    if keeps:
        shot.placements = json.dumps(answer.get("placements"))
    if answer.get(Column.IS_FALLBACK):
        shot.fallback = answer.get(Column.FALLBACK_REASON) or ""


def _as_table(shots: Sequence[_Shot]) -> pl.DataFrame:
    return pl.DataFrame(
        [[getattr(shot, name) for shot in shots] for name in SHOTS], schema=SHOTS
    )
