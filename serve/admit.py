"""Shedding: what cannot be answered soon is refused at once."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api import ProblemReport
from serve.body import BUSY, JSON, RETRY_AFTER_S, RefusalError
from serve.metrics import Metrics

SHED_PATHS: Final = ("/v1/decide", "/v1/preview", "/v1/clicks")
"""What is refused when too much is in work; operations and health never are."""

OPEN_PER_PLACE: Final = 8
"""Requests whose bodies may still be coming, for each that may be answered."""

BREATHS: Final = 4
"""Rounds of the event loop between two beginnings. To read a request and to refuse it
takes several; were there one, each would be as long as an answer."""

CALM_SHARE: Final = 0.25
"""Of the places: with no more of them taken, what came before has been dealt with."""

BURST: Final = 4
"""Times the places that a burst may have, unless configured otherwise."""

_FULL: Final = "too many requests are being answered; try again"
_REFUSAL: Final = ProblemReport(error=_FULL).model_dump_json()


class Places:
    """How many requests may be answered at the same time, of one gateway.

    A queue before the gateway would let requests wait past their deadline, which
    begins in it; and Ray Serve's own queue tries a busy replica again only after
    pauses that grow to half a second.

    Those that have a place begin one by one, and the event loop deals with what has
    come in between: else what arrives while an answer is computed is computed too,
    one after the other, before anybody can be refused.

    Requests that arrive by chance, or after a pause of the machine, come in bursts
    that the next moments deal with: to refuse them would be to refuse ordinary load.
    So there are more places as long as the queue was short a few answers ago, as in
    the adaptive queue of B. Maurer, "Fail at Scale", ACM Queue 13(8), 2015. It counts
    answers, not seconds: a machine that stands still for a moment, or is slow, ends
    no burst.

    Args:
        most: requests in work at the same time when more come than can be answered.
        burst: the same as long as fewer than `burst` have begun since the queue was
            short, see `CALM_SHARE`; by default `BURST` times `most`. No allowance
            when less than `most`, or with fewer places than tell a short queue from
            the moment between two answers.
    """

    def __init__(self, most: int, burst: int | None = None) -> None:
        wanted = BURST * most if burst is None else max(most, burst)
        self.most = most
        self.burst = wanted if CALM_SHARE * most >= 1 else most
        self._taken = 0
        self._begun_since_calm = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether one more would be refused."""
        is_burst = self._begun_since_calm < self.burst
        return self._taken >= (self.burst if is_burst else self.most)

    @asynccontextmanager
    async def take(self, metrics: Metrics) -> AsyncIterator[float]:
        """Hold a place from when it is one's turn; yields the seconds until then.

        Raises:
            RefusalError: there is none; with status 503.
        """
        if self.is_full:
            metrics.shed.inc()
            raise RefusalError(BUSY, _FULL)
        if self._taken <= CALM_SHARE * self.most:
            self._begun_since_calm = 0
        self._taken += 1
        came_s = perf_counter()
        try:
            await self._turn()
            self._begun_since_calm += 1
            yield perf_counter() - came_s
        finally:
            self._taken -= 1

    def _turn(self) -> "asyncio.Future[None]":
        turn = asyncio.get_running_loop().create_future()
        if not self._waiting:
            self._breathe(BREATHS)
        self._waiting.append(turn)
        return turn

    def _breathe(self, rounds: int) -> None:
        """Let the event loop go round a few times, then the next one begin."""
        then = self._next if rounds == 0 else partial(self._breathe, rounds - 1)
        asyncio.get_running_loop().call_soon(then)

    def _next(self) -> None:
        """Let the first begin that still waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                break
        if self._waiting:
            self._breathe(BREATHS)


class Admit:
    """Middleware that refuses unread what would find no place.

    A place is taken once the body is whole, so that slow bodies keep nobody out;
    how many may be coming is bounded apart.

    Args:
        app: the application.
        places: of the gateway.
        metrics: of the gateway.
    """

    def __init__(self, app: ASGIApp, places: Places, metrics: Metrics) -> None:
        self._app, self._places, self._metrics = app, places, metrics
        # Those that hold a place are open too: a burst keeps no body out.
        self._most_open = places.burst + (OPEN_PER_PLACE - 1) * places.most
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 503."""
        if scope["type"] != "http" or not _is_shed(scope):
            await self._app(scope, receive, send)
            return
        if self._places.is_full or self._open >= self._most_open:
            self._metrics.shed.inc()
            for message in _refusal():
                await send(message)
            return
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1


def _is_shed(scope: Scope) -> bool:
    """Tell by the end of the path: the service may stand under a prefix."""
    return str(scope["path"]).endswith(SHED_PATHS)


def _refusal() -> Sequence[Message]:
    headers = [
        (b"content-type", JSON.encode()),
        (b"retry-after", str(RETRY_AFTER_S).encode()),
    ]
    return (
        {"type": "http.response.start", "status": 503, "headers": headers},
        {"type": "http.response.body", "body": _REFUSAL.encode()},
    )
