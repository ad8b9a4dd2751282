"""What several requests ask of a stage, in one call of another process.

A call costs some 4 ms of processor on both sides, two to four times what the stage
does with it. So no more than a few are under way: what is asked meanwhile waits, and
goes together when one has come back. Without load every question goes at once, and
nobody waits for a batch to fill; under load the calls become fewer, not the answers.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

import numpy as np

from serve.release import PageView
from serve.stage import StageAnswer, StageMethod

Answer = TypeVar("Answer")

MOST_TOGETHER: Final = 8
"""Questions of one call: the last one waits for the others, and has a deadline."""


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


class RemoteStage(Protocol):
    """The method of a deployment handle that answers several questions."""

    def remote(self, questions: Sequence[Asked]) -> Awaitable[Sequence[StageAnswer]]:
        """Ask; awaiting gives an answer for each, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class _Question:
    asked: Asked
    answer: "asyncio.Future[StageAnswer]"


class Batched:
    """Asks one stage, from one event loop.

    Args:
        stage: answers several questions in a call.
        most_calls: under way at the same time, >= 1.
    """

    def __init__(self, stage: RemoteStage, most_calls: int) -> None:
        self._stage, self._most_calls = stage, most_calls
        self._waiting: deque[_Question] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._is_about_to_send = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked now."""
        return not self._under_way and not self._waiting

    def method(self, name: str) -> "BatchedMethod":
        """Return one method of the stage, in the manner of a handle's."""
        return BatchedMethod(self, name)

    def ahead(self, name: str) -> "AheadMethod":
        """Return one method that is worth a call only while nothing else is asked."""
        return AheadMethod(self, name)

    def ask(self, asked: Asked) -> "asyncio.Future[StageAnswer]":
        """Ask with the next call; to cancel the answer takes the question back.

        The answer raises `StageError` when the stage failed at this question, and what
        the call raises when that did.
        """
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Question(asked, answer))
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
            call = asyncio.create_task(self._call(batch))
            self._under_way.add(call)
            call.add_done_callback(self._ended)
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

    def _ended(self, call: "asyncio.Task[None]") -> None:
        self._under_way.discard(call)
        if self._waiting:
            self._send_soon()

    async def _call(self, batch: list[_Question]) -> None:
        try:
            call = self._stage.remote([one.asked for one in batch])
            answers = await of_handle(call)
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            for one in batch:
                _fail(one, error)
            return
        for one, answer in zip(batch, answers, strict=True):
            if answer.failure is not None:
                _fail(one, StageError(answer.failure))
            elif not one.answer.done():
                one.answer.set_result(answer)


class BatchedMethod:
    """One method of a stage."""

    def __init__(self, stage: Batched, name: str) -> None:
        self._stage, self._name = stage, name

    def remote(
        self, release: str, page: PageView, creatives: np.ndarray
    ) -> "asyncio.Future[StageAnswer]":
        """Ask, as `RemoteMethod`."""
        return self._stage.ask(Asked(self._name, release, page, creatives))


class AheadMethod:
    """A method by which a stage works ahead, for a question that comes later.

    With other questions about, the call only delays them: it is left out, and the
    stage does that work when the question comes.
    """

    def __init__(self, stage: Batched, name: str) -> None:
        self._stage, self._name = stage, name

    def remote(
        self, release: str, page: PageView, creatives: np.ndarray
    ) -> "asyncio.Future[StageAnswer]":
        """Ask, as `RemoteMethod`; no scores at once where it would only delay."""
        if self._stage.is_idle:
            return self._stage.ask(Asked(self._name, release, page, creatives))
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(StageAnswer(release, None))
        return answer


async def answer_each(
    methods: Mapping[str, StageMethod], questions: Sequence[Asked]
) -> list[StageAnswer]:
    """Answer one question after the other; the other end of `Batched`.

    A method that raises fails its own question alone, see `StageAnswer.failure`.
    """
    answers = []
    for one in questions:
        try:
            answers.append(methods[one.method](one.release, one.page, one.creatives))
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            failure = f"{type(error).__name__}: {error}"
            answers.append(StageAnswer("", None, failure))
        # Between two the replica may be told to stop, or asked how it is.
        await asyncio.sleep(0)
    return answers


async def of_handle(answer: Awaitable[Answer]) -> Answer:
    """Await what a handle returned; told to stop, it tells the replica too."""
    try:
        return await answer
    except asyncio.CancelledError:
        # A handle's answer goes on in its replica unless it is told to stop.
        cancel = getattr(answer, "cancel", None)
        if cancel is not None:
            cancel()
        raise


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
