"""What several requests ask of a stage, in one call of another process.

A call costs some 4 ms of processor on both sides, two to four times what the stage
does with it. So no more than a few are under way: what is asked meanwhile waits, and
goes together when one has come back. Without load every question goes at once, and
nobody waits for a batch to fill; under load the calls become fewer, not the answers.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Final, Protocol

import numpy as np

from serve.release import PageView
from serve.stage import StageAnswer, StageMethod

MOST_TOGETHER: Final = 8
"""Questions of one call: the last one waits for the others, and has a deadline."""

SLOW_S: Final = 0.05
"""A call that takes longer keeps nobody back any more: its replica hangs, perhaps, and
some of what it asks may have all the time in the world."""


_LATE: Final = "nobody waits any longer"

_logger = logging.getLogger(__name__)


class StageError(Exception):
    """A stage failed at one question of a call; the others have their answers."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to a stage."""

    method: str
    release: str
    page: PageView
    creatives: np.ndarray
    """As the method takes them."""
    left_s: float
    """So long the answer is waited for."""


class RemoteStage(Protocol):
    """The method of a deployment handle that answers several questions."""

    def remote(self, questions: Sequence[Asked]) -> Awaitable[Sequence[StageAnswer]]:
        """Ask; awaiting gives an answer for each, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class _Question:
    asked: Asked
    answer: "asyncio.Future[StageAnswer]"
    came_s: float

    def now(self) -> Asked:
        """Return what is asked with the time that is left by now."""
        gone_s = monotonic() - self.came_s
        return replace(self.asked, left_s=self.asked.left_s - gone_s)


class Batched:
    """Asks one stage, from one event loop.

    Args:
        stage: answers several questions in a call.
        most_calls: under way at the same time, >= 1, not counting slow ones.
    """

    def __init__(self, stage: RemoteStage, most_calls: int) -> None:
        self._stage, self._most_calls = stage, most_calls
        self._waiting: deque[_Question] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._under_way: set[asyncio.Task[None]] = set()
        """Those of the calls that others wait for."""
        self._is_about_to_send = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked now."""
        return not self._calls and not self._waiting

    def method(self, name: str) -> "BatchedMethod":
        """Return one method of the stage, in the manner of a handle's."""
        return BatchedMethod(self, name)

    def ahead(self, name: str) -> "BatchedMethod":
        """Return one method that is worth a call only while nothing else is asked."""
        return BatchedMethod(self, name, is_ahead=True)

    def ask(self, asked: Asked) -> "asyncio.Future[StageAnswer]":
        """Ask with the next call; to cancel the answer takes the question back.

        The answer raises `StageError` when the stage failed at this question, and what
        the call raises when that did; it is cancelled when the call was.
        """
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Question(asked, answer, monotonic()))
        self._send_soon()
        return answer

    def _send_soon(self) -> None:
        """Send in the next round of the event loop: in this one others may ask too."""
        if not self._is_about_to_send:
            self._is_about_to_send = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._is_about_to_send = False
        while len(self._under_way) < self._most_calls and (batch := self._next()):
            # A call belongs to no request: made in the context of one, Ray Serve would
            # break it off when that one's client leaves.
            call = asyncio.create_task(self._call(batch), context=Context())
            self._calls.add(call)
            self._under_way.add(call)
            slow = asyncio.get_running_loop().call_later(SLOW_S, self._pass, call)
            call.add_done_callback(partial(self._ended, slow))
            for one in batch:
                one.answer.add_done_callback(partial(_break_off, call, batch))

    def _next(self) -> list[_Question]:
        """Take those that wait longest and are still waited for."""
        batch: list[_Question] = []
        while self._waiting and len(batch) < MOST_TOGETHER:
            one = self._waiting.popleft()
            if not one.answer.done():
                batch.append(one)
        return batch

    def _ended(self, slow: asyncio.TimerHandle, call: "asyncio.Task[None]") -> None:
        slow.cancel()
        self._calls.discard(call)
        self._pass(call)

    def _pass(self, call: "asyncio.Task[None]") -> None:
        """Let the next call go, whether this one has come back or not."""
        self._under_way.discard(call)
        if self._waiting:
            self._send_soon()

    async def _call(self, batch: list[_Question]) -> None:
        try:
            answers = await _of_handle(self._stage.remote([one.now() for one in batch]))
            for one, answer in zip(batch, answers, strict=True):
                _tell(one, answer)
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            for one in batch:
                _fail(one, error)
        finally:
            # Nobody waits for what does not come any more.
            for one in batch:
                one.answer.cancel()


class BatchedMethod:
    """One method of a stage.

    Args:
        stage: answers.
        name: of the method.
        is_ahead: with it the stage works ahead, for a question that comes later. With
            other questions about, the call would only delay them: it is left out, and
            the stage does that work when the question comes.
    """

    def __init__(self, stage: Batched, name: str, *, is_ahead: bool = False) -> None:
        self._stage, self._name, self._is_ahead = stage, name, is_ahead

    def remote(
        self,
        release: str,
        page: PageView,
        creatives: np.ndarray,
        most_s: float = math.inf,
    ) -> "asyncio.Future[StageAnswer]":
        """Ask, as `RemoteMethod`; no scores at once for a call that is left out."""
        if self._is_ahead and not self._stage.is_idle:
            left_out = asyncio.get_running_loop().create_future()
            left_out.set_result(StageAnswer(release, None))
            return left_out
        return self._stage.ask(Asked(self._name, release, page, creatives, most_s))


class Answerer:
    """The other end of `Batched`, in a replica.

    Calls are answered in turn and questions one after the other: side by side all of
    them would end late.

    Args:
        methods: of the stage, by name; they never wait.
    """

    def __init__(self, methods: Mapping[str, StageMethod]) -> None:
        self._methods = methods
        self._turn = asyncio.Lock()

    async def answer(self, questions: Sequence[Asked]) -> list[StageAnswer]:
        """Answer each that is still waited for.

        A method that raises fails its own question alone, see `StageAnswer.failure`.
        """
        came_s, answers = monotonic(), []
        async with self._turn:
            for one in questions:
                answers.append(self._answer(one, monotonic() - came_s))
                # Between two the replica may be told to stop, or asked how it is.
                await asyncio.sleep(0)
        return answers

    def _answer(self, one: Asked, waited_s: float) -> StageAnswer:
        if waited_s >= one.left_s:
            return StageAnswer("", None, _LATE)
        try:
            return self._methods[one.method](one.release, one.page, one.creatives)
        except Exception as error:
            _logger.warning("a stage failed at a question", exc_info=True)
            return StageAnswer("", None, f"{type(error).__name__}: {error}")


async def _of_handle(
    answer: Awaitable[Sequence[StageAnswer]],
) -> Sequence[StageAnswer]:
    """Await what a handle returned; told to stop, it tells the replica too."""
    try:
        return await answer
    except asyncio.CancelledError:
        # A handle's answer goes on in its replica unless it is told to stop.
        cancel = getattr(answer, "cancel", None)
        if cancel is not None:
            cancel()
        raise


def _tell(one: _Question, answer: StageAnswer) -> None:
    if answer.failure is not None:
        _fail(one, StageError(answer.failure))
    elif not one.answer.done():
        one.answer.set_result(answer)


def _fail(one: _Question, error: Exception) -> None:
    if not one.answer.done():
        one.answer.set_exception(error)


def _break_off(
    call: "asyncio.Task[None]",
    batch: Sequence[_Question],
    _: "asyncio.Future[StageAnswer]",
) -> None:
    """Break a call off of which nobody waits for an answer any longer."""
    if all(one.answer.cancelled() for one in batch):
        call.cancel()
