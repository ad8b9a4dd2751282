"""What the batching of calls promises: fewer calls under load, nobody else's fault."""

import asyncio
from contextvars import ContextVar
from types import SimpleNamespace

import numpy as np
import pytest

from serve import batched
from serve.batched import MOST_TOGETHER, Answerer, Asked, Batched, StageError
from serve.stage import StageAnswer

NOTHING = np.zeros(0, np.int32)


class Stage:
    """A handle whose calls come back when they are let go."""

    def __init__(self):
        self.calls, self._open, self.broken_off = [], [], 0

    def remote(self, questions):
        self.calls.append([one.release for one in questions])
        self._open.append(asyncio.get_running_loop().create_future())
        return self._answer(questions, self._open[-1])

    async def _answer(self, questions, may_end):
        try:
            await may_end
        except asyncio.CancelledError:
            self.broken_off += 1
            raise
        return await Answerer({"scores": scores}).answer(questions)

    def let_go(self, error=None):
        one = self._open.pop(0)
        if one.done():
            return
        one.set_exception(error) if error else one.set_result(None)


def scores(release, *_):
    if release == "bad":
        raise ZeroDivisionError("no")
    return StageAnswer(release, NOTHING)


def asked_of(names, left_s=30.0):
    return [Asked("scores", name, None, NOTHING, left_s) for name in names]


async def rounds():
    """Let everything happen that nothing holds up."""
    for _ in range(40):
        await asyncio.sleep(0)


def asking(stage, most_calls=1):
    method = Batched(stage, most_calls).method("scores")
    return lambda name: method.remote(name, None, NOTHING)


def test_without_load_each_question_goes_at_once():
    async def run():
        stage = Stage()
        ask = asking(stage)
        for name in "ab":
            answer = ask(name)
            await rounds()
            stage.let_go()
            assert (await answer).release == name
        return stage.calls

    assert asyncio.run(run()) == [["a"], ["b"]]


def test_what_is_asked_while_a_call_is_under_way_goes_together_and_in_order():
    async def run():
        stage = Stage()
        ask = asking(stage)
        first = ask("a")
        await rounds()
        others = []
        for name in "bcd":
            others.append(ask(name))
            await rounds()
        assert stage.calls == [["a"]]
        stage.let_go()
        await first
        await rounds()
        stage.let_go()
        return stage.calls, [(await one).release for one in others]

    calls, answers = asyncio.run(run())
    assert calls == [["a"], ["b", "c", "d"]]
    assert answers == ["b", "c", "d"]


def test_what_is_asked_in_one_round_of_the_event_loop_goes_together():
    async def run():
        stage = Stage()
        ask = asking(stage)
        ask("a"), ask("b")
        await rounds()
        return stage.calls

    assert asyncio.run(run()) == [["a", "b"]]


def test_calls_and_what_goes_together_are_bounded():
    async def run():
        stage = Stage()
        ask = asking(stage, most_calls=2)
        names = [f"q{n}" for n in range(3 * MOST_TOGETHER)]
        answers = [ask(name) for name in names]
        await rounds()
        calls = list(stage.calls)
        for one in answers:
            one.cancel()
        await rounds()
        return calls, names

    calls, names = asyncio.run(run())
    assert calls == [names[:MOST_TOGETHER], names[MOST_TOGETHER : 2 * MOST_TOGETHER]]


def test_a_stage_works_ahead_only_while_nothing_else_is_asked():
    async def run():
        stage = Stage()
        asked_of = Batched(stage, most_calls=1)
        ahead, method = asked_of.ahead("scores"), asked_of.method("scores")
        opened = ahead.remote("a", None, NOTHING)
        await rounds()
        left_out = ahead.remote("b", None, NOTHING)
        assert left_out.done()
        asked = method.remote("b", None, NOTHING)
        stage.let_go()
        await opened
        await rounds()
        stage.let_go()
        await asked
        await rounds()
        ahead.remote("c", None, NOTHING)
        await rounds()
        return list(stage.calls), left_out.result()

    calls, left_out = asyncio.run(run())
    assert calls == [["a"], ["b"], ["c"]]
    assert left_out == StageAnswer("b", None)


def test_a_question_that_fails_is_nobody_elses_failure():
    async def run():
        stage = Stage()
        ask = asking(stage)
        answers = [ask("a"), ask("bad"), ask("b")]
        await rounds()
        stage.let_go()
        return await asyncio.gather(*answers, return_exceptions=True)

    good, failed, also_good = asyncio.run(run())
    assert (good.release, also_good.release) == ("a", "b")
    assert isinstance(failed, StageError)
    assert str(failed) == "ZeroDivisionError: no"


def test_a_call_that_fails_fails_all_it_asked_and_the_next_one_goes():
    async def run():
        stage = Stage()
        ask = asking(stage)
        lost = [ask("a"), ask("b")]
        await rounds()
        after = ask("c")
        stage.let_go(ConnectionError("gone"))
        found = await asyncio.gather(*lost, return_exceptions=True)
        await rounds()
        stage.let_go()
        return found, await after

    found, after = asyncio.run(run())
    assert [str(one) for one in found] == ["gone", "gone"]
    assert after.release == "c"


def test_what_cannot_even_be_asked_is_told_too():
    class Refusing:
        def remote(self, _):
            raise ConnectionError("no replica")

    async def run():
        await asking(Refusing())("a")

    with pytest.raises(ConnectionError, match="no replica"):
        asyncio.run(run())


def test_what_is_given_up_while_it_waits_is_never_asked():
    async def run():
        stage = Stage()
        ask = asking(stage)
        ask("a")
        await rounds()
        given_up, wanted = ask("b"), ask("c")
        given_up.cancel()
        stage.let_go()
        await rounds()
        stage.let_go()
        await wanted
        return stage.calls

    assert asyncio.run(run()) == [["a"], ["c"]]


def test_a_call_is_broken_off_when_all_it_asks_is_given_up_and_gives_its_place_back():
    async def run():
        stage = Stage()
        ask = asking(stage)
        first, second = ask("a"), ask("b")
        await rounds()
        waiting = ask("c")
        first.cancel()
        await rounds()
        still_asked = stage.broken_off
        second.cancel()
        await rounds()
        stage.let_go()
        stage.let_go()
        return still_asked, stage.broken_off, (await waiting).release

    assert asyncio.run(run()) == (0, 1, "c")


def test_the_replica_is_told_of_a_call_that_is_broken_off():
    class Response:
        is_told = False

        def __await__(self):
            return asyncio.Event().wait().__await__()

        def cancel(self):
            self.is_told = True

    response = Response()

    async def run():
        asked = asking(SimpleNamespace(remote=lambda _: response))("a")
        await rounds()
        asked.cancel()
        await rounds()

    asyncio.run(run())
    assert response.is_told


@pytest.mark.parametrize("answers", [[], None, [None, None]])
def test_what_a_replica_answers_wrongly_is_told_to_all_who_asked(answers):
    class Confused:
        async def remote(self, _):
            return answers

    async def run():
        ask = asking(Confused())
        asked = [ask("a"), ask("b")]
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(run())
    assert [type(one).__name__ for one in found] != ["StageAnswer", "StageAnswer"]
    assert all(isinstance(one, Exception) for one in found)


def test_nobody_waits_for_a_call_that_was_cancelled_elsewhere():
    class Cancelled:
        async def remote(self, _):
            raise asyncio.CancelledError

    async def run():
        asked = asking(Cancelled())("a")
        await rounds()
        return asked.cancelled()

    assert asyncio.run(run())


def test_a_call_belongs_to_none_of_the_requests_that_ask():
    request, found = ContextVar("request", default="nobody's"), []

    class Looking:
        async def remote(self, questions):
            found.append(request.get())
            return [StageAnswer(one.release, NOTHING) for one in questions]

    async def run():
        request.set("a")
        await asking(Looking())("a")

    asyncio.run(run())
    assert found == ["nobody's"]


def test_what_is_past_its_time_is_not_computed():
    computed = []

    def method(release, *_):
        computed.append(release)
        return StageAnswer(release, NOTHING)

    questions = [*asked_of("a"), *asked_of("b", left_s=0.0), *asked_of("c")]
    answers = asyncio.run(Answerer({"scores": method}).answer(questions))
    assert computed == ["a", "c"]
    assert [one.failure is None for one in answers] == [True, False, True]


def test_what_is_asked_knows_how_long_it_is_waited_for(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(batched, "monotonic", lambda: now[0])
    left = []

    class Looking:
        async def remote(self, questions):
            left.extend(one.left_s for one in questions)
            return [StageAnswer(one.release, NOTHING) for one in questions]

    async def run():
        method = Batched(Looking(), 1).method("scores")
        answer = method.remote("a", None, NOTHING, 3.0)
        now[0] += 2.0
        await answer

    asyncio.run(run())
    assert left == [1.0]


def test_calls_are_answered_in_turn():
    order = []

    def method(release, *_):
        order.append(release)
        return StageAnswer(release, NOTHING)

    async def run():
        answerer = Answerer({"scores": method})
        await asyncio.gather(*(answerer.answer(asked_of(one)) for one in ("ab", "cd")))

    asyncio.run(run())
    assert order == ["a", "b", "c", "d"]


def test_a_slow_call_keeps_nobody_back(monkeypatch):
    monkeypatch.setattr(batched, "SLOW_S", 0.0)

    async def run():
        stage = Stage()
        ask = asking(stage)
        slow = ask("a")
        await rounds()
        ask("b")
        await rounds()
        both = list(stage.calls)
        stage.let_go()
        return both, (await slow).release

    assert asyncio.run(run()) == ([["a"], ["b"]], "a")


def test_a_replica_that_is_told_to_stop_answers_no_further_question():
    asked = []

    def slow(release, *_):
        asked.append(release)
        return StageAnswer(release, NOTHING)

    async def run():
        answering = asyncio.create_task(
            Answerer({"scores": slow}).answer(asked_of("abc"))
        )
        await asyncio.sleep(0)
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)

    asyncio.run(run())
    assert asked == ["a"]
