"""What a stage in the gateway's process promises: the event loop never hangs on it."""

import asyncio
import threading

import pytest

from serve import stage
from serve.stage import InProcess, StageAnswer

ANSWER = StageAnswer("r1", None)


def test_a_quick_answer_is_there_at_once():
    async def ask():
        answer = InProcess(lambda *_: ANSWER, patience_s=30.0).remote("r1", None, None)
        return answer.done(), await answer

    assert asyncio.run(ask()) == (True, ANSWER)


@pytest.mark.parametrize("patience_s", [30.0, 0.0])
def test_what_a_stage_raises_reaches_who_asked(patience_s):
    def fail(*_):
        raise ZeroDivisionError

    async def ask():
        await InProcess(fail, patience_s=patience_s).remote("r1", None, None)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(ask())


def test_the_event_loop_goes_on_beside_a_slow_stage():
    may_end = threading.Event()

    def slow(*_):
        may_end.wait(30)
        return ANSWER

    async def ask():
        answer = InProcess(slow, patience_s=0.001).remote("r1", None, None)
        was_done = answer.done()
        may_end.set()
        return was_done, await answer

    assert asyncio.run(ask()) == (False, ANSWER)


def test_after_a_slow_answer_nobody_stands_still_for_a_while(monkeypatch):
    waited, may_end = [], threading.Event()
    monkeypatch.setattr(stage, "wait", lambda asked, _: waited.append(asked))

    async def ask():
        slow = InProcess(lambda *_: may_end.wait(30))
        first, second = (slow.remote("r1", None, None) for _ in range(2))
        may_end.set()
        await asyncio.gather(first, second)

    asyncio.run(ask())
    assert len(waited) == 1


def test_a_stage_that_hangs_takes_no_thread_from_another():
    may_end = threading.Event()

    async def ask():
        hung = InProcess(lambda *_: may_end.wait(30), patience_s=0.0)
        stuck = [hung.remote("r1", None, None) for _ in range(20)]
        answer = await InProcess(lambda *_: ANSWER).remote("r1", None, None)
        may_end.set()
        await asyncio.gather(*stuck)
        return answer

    assert asyncio.run(ask()) == ANSWER


def test_how_long_a_stage_hangs_is_known(monkeypatch):
    may_end, now = threading.Event(), [1000.0]
    monkeypatch.setattr(stage, "monotonic", lambda: now[0])

    def hang(*_):
        may_end.wait(30)
        return ANSWER

    async def ask():
        asked = InProcess(hang, patience_s=0.001)
        assert asked.hangs_s == 0
        answer = asked.remote("r1", None, None)
        now[0] += 70
        # Who asked waits no longer; the thread does not know.
        answer.cancel()
        told = [asked.hangs_s]
        may_end.set()
        asked._threads.shutdown()
        return [*told, asked.hangs_s]

    assert asyncio.run(ask()) == [70, 0]
