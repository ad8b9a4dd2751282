"""Brownout and shedding: cheaper answers first, then a quick no."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
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

CALM_SHARE: Final = 1 / 3
"""Of the places: with no more of them taken, what came before has been dealt with."""

FULL_SHARE: Final = 2 / 3
"""Of the places: with more of them taken answers become cheaper, unless configured
otherwise."""

BURST: Final = 4
"""Times the places that a burst may begin with, unless configured otherwise."""

BURST_LASTS: Final = 15
"""Times the places: so many begin before what still comes is no burst any more."""

CALM_GIVES: Final = 2
"""Beginnings that a burst may have again for each that begins in calm. Were it all of
them at once, a moment without arrivals in the midst of an overload would begin another
burst."""

_FULL: Final = "too many requests are being answered; try again"
_REFUSAL: Final = ProblemReport(error=_FULL).model_dump_json()


@dataclass(frozen=True, slots=True)
class Turn:
    """The moment at which one may be answered."""

    waited_s: float
    """Since it came."""
    is_crowded: bool
    """More hold places than can be answered in full."""


class Places:
    """How many requests may be answered at the same time, of one gateway.

    A queue before the gateway would let requests wait past their deadline, which
    begins in it; and Ray Serve's own queue tries a busy replica again only after
    pauses that grow to half a second.

    Those that have a place begin one by one, and the event loop deals with what has
    come in between: else what arrives while an answer is computed is computed too,
    one after the other, before anybody can be refused.

    Before anybody is refused, answers become cheaper: whose turn comes while more
    than `full` hold places is to be answered without the ranker, which is a good part
    of the work (brownout, C. Klein et al., ICSE 2014).

    Requests that arrive by chance, or after a pause of the machine, come in bursts
    that the next moments deal with: to refuse them would be to refuse ordinary load.
    So there are more places after a time in which the queue was short, much as in the
    adaptive queue of B. Maurer, "Fail at Scale", ACM Queue 13(8), 2015; they become
    fewer with each that begins in a longer one, as from a bucket of tokens, and more
    again with each that begins in a short one. It counts answers, not seconds: a
    machine that stands still for a moment, or is slow, ends no burst.

    Args:
        most: requests in work at the same time when more come than can be answered.
        full: so many of them are answered in full; by default `FULL_SHARE` of `most`,
            one at least. With `most` no answer is ever made cheaper.
        burst: requests in work after a time in which the queue was short, see
            `CALM_SHARE`; `most` when `BURST_LASTS` times `most` have begun in a longer
            one, and in between in proportion. By default `BURST` times `most`; no
            allowance when less than `most`, or with fewer places than tell a short
            queue from the moment between two answers.
    """

    def __init__(
        self, most: int, full: int | None = None, burst: int | None = None
    ) -> None:
        self.most = most
        self.full = max(1, int(FULL_SHARE * most)) if full is None else full
        wanted = max(most, BURST * most if burst is None else burst)
        self.burst = wanted if CALM_SHARE * most >= 1 else most
        self._taken = 0
        self._begun_in_burst = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether one more would be refused."""
        share = 1 - self._begun_in_burst / (BURST_LASTS * self.most)
        return self._taken >= self.most + share * (self.burst - self.most)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being answered."""
        return self._taken == 0

    @asynccontextmanager
    async def take(self, metrics: Metrics) -> AsyncIterator[Turn]:
        """Hold a place, and yield when it is one's turn.

        Raises:
            RefusalError: there is none; with status 503.
        """
        if self.is_full:
            metrics.shed.inc()
            raise RefusalError(BUSY, _FULL)
        self._taken += 1
        came_s = perf_counter()
        try:
            await self._turn()
            self._count_beginning()
            is_crowded = self.full < min(self.most, self._taken)
            yield Turn(perf_counter() - came_s, is_crowded)
        finally:
            self._taken -= 1

    def _count_beginning(self) -> None:
        is_calm = self._taken <= CALM_SHARE * self.most
        more = -CALM_GIVES if is_calm else 1
        most = BURST_LASTS * self.most
        self._begun_in_burst = min(max(0, self._begun_in_burst + more), most)

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
