"""A whole decision in one thread decides as stage by stage does, ladder and all."""

import asyncio
import json

import numpy as np
import pytest

from cacs_ray.decision.candidates import Candidates
from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.schema import POLICIES
from serve import straight
from serve.api import DecideRequest
from serve.gateway import Gateway, Question, Rules, ServedRelease
from serve.holder import OneRelease
from serve.straight import LocalStages, Straight, StraightScorers
from tests.unit.serve.conftest import (
    PCTR,
    SAID_ONCE,
    SCORES,
    LocalStage,
    tiny_catalogue,
    without_ranker,
)


@pytest.fixture
def local():
    return LocalStages(LocalStage(SCORES), LocalStage(SCORES), LocalStage(PCTR))


@pytest.fixture
def both(make_service, release, page_view, local):
    """Local stages, stages that are asked one by one, and a way to decide."""
    service = make_service()
    held = OneRelease("r1", ServedRelease(release))
    stages = service.gateway._stages
    rules = Rules(service.gateway._rules.arms, budget_s=30.0)
    at_once = Straight(local, patience_s=30.0)
    gateway = Gateway(held, stages, rules, straight=at_once)
    request = DecideRequest.model_validate_json(json.dumps(page_view))

    def decide(question=None, over=gateway):
        return asyncio.run(over.decide(request, question))

    return local, service, decide


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_order_decides_as_stage_by_stage(both, policy):
    local, service, decide = both
    by_stages = decide(Question(order=policy), over=service.gateway).decisions
    calls = service.ranker.num_calls

    decided = decide(Question(order=policy))

    at_once = decided.decisions
    assert "straight" not in decided.seconds
    for name in ("creative_row", "propensity", "selector_score", "pctr", "slot"):
        np.testing.assert_array_equal(getattr(at_once, name), getattr(by_stages, name))
    # Only stages that are asked side by side need the event loop.
    assert (service.ranker.num_calls > calls) == (policy == "parallel")
    assert (local.pctr.num_calls == 0) == (policy == "parallel")


def test_the_time_of_each_stage_is_known(both):
    *_, decide = both
    seconds = decide().seconds
    assert seconds["selector"] > 0
    assert seconds["ranker"] > 0
    assert seconds["total"] >= seconds["selector"] + seconds["ranker"]


@pytest.mark.parametrize(
    "fault",
    [
        {"error": RuntimeError("down")},
        {"by_row": np.full(5, np.nan)},
        {"by_row": np.zeros((5, 3))},
        {"release": "r0"},
    ],
)
@pytest.mark.parametrize("stage", ["selector_scores", "pctr"])
def test_what_goes_wrong_at_once_is_asked_stage_by_stage(both, stage, fault):
    local, service, decide = both
    for name, value in fault.items():
        setattr(getattr(local, stage), name, value)

    decided = decide()

    assert (service.selector.num_calls, service.ranker.num_calls) == (1, 1)
    assert decided.origin.fallback_reason is None
    assert decided.decisions.pctr.tolist() == [0.10, 0.05]


def test_after_trouble_stages_are_asked_one_by_one_for_a_while(both, monkeypatch):
    local, service, decide = both
    now = [1000.0]
    monkeypatch.setattr(straight, "monotonic", lambda: now[0])
    local.pctr.error = RuntimeError("down")
    assert decide().seconds["straight"] > 0
    local.pctr.error = None
    asked = local.pctr.num_calls

    now[0] += straight.WARY_S / 2
    assert "straight" not in decide().seconds
    assert (local.pctr.num_calls, service.ranker.num_calls) == (asked, 2)
    now[0] += straight.WARY_S
    decide()
    assert (local.pctr.num_calls, service.ranker.num_calls) == (asked + 1, 2)


def test_a_stage_that_hangs_is_left_and_the_next_does_not_begin(both):
    local, service, decide = both
    local.selector_scores.may_end.clear()

    decided = decide(Question(budget_s=0.5))

    assert (service.selector.num_calls, service.ranker.num_calls) == (1, 1)
    assert decided.origin.fallback_reason is None
    # The time that was lost is told.
    assert decided.seconds["straight"] >= 0.1
    local.selector_scores.may_end.set()
    assert local.pctr.num_calls == 0


def straight_over(local, patience_s=0.0):
    """Return one way to decide straight, and candidates and scorers for it."""
    at_once = Straight(local, patience_s=patience_s)
    candidates = Candidates(
        ("q",), np.zeros(1, np.int32), ("hat",), np.ones(1, np.int64),
        np.array([[1, 2]], np.int32), np.zeros(1, np.int32),
    )  # fmt: skip

    def scorers(release="r1"):
        return StraightScorers(local, release, None, tiny_catalogue())

    async def decide(most_s=30.0, release="r1"):
        settings = DecisionSettings()
        if not at_once.is_open(release, settings.policy):
            return None
        return await at_once.decide(candidates, scorers(release), settings, most_s)

    decide.straight = at_once
    return decide


def test_a_slow_decision_is_waited_for_while_the_event_loop_goes_on(local):
    decide = straight_over(local)
    local.selector_scores.may_end.clear()

    async def ask():
        slow = asyncio.create_task(decide())
        await asyncio.sleep(0)
        assert not slow.done()
        local.selector_scores.may_end.set()
        return await slow

    assert asyncio.run(ask()).creative_row.tolist() == [1]
    assert local.selector_scores.num_calls == 1


def test_a_request_with_little_time_says_nothing_of_the_stages(local):
    decide = straight_over(local, patience_s=30.0)

    async def ask():
        local.selector_scores.may_end.clear()
        hurried = await decide(most_s=0.01)
        local.selector_scores.may_end.set()
        return hurried, await decide()

    hurried, next_one = asyncio.run(ask())
    assert hurried is None
    assert next_one is not None


def test_while_what_was_given_up_still_runs_nothing_is_tried(local, monkeypatch):
    decide = straight_over(local)
    local.selector_scores.may_end.clear()

    async def ask():
        assert await decide(most_s=0.01) is None
        late = straight.monotonic() + 10 * straight.WARY_S
        monkeypatch.setattr(straight, "monotonic", lambda: late)
        assert await decide() is None
        assert local.selector_scores.num_calls == 1
        # Another release has stages of its own.
        local.selector_scores.may_end.set()
        return await decide(release="r2")

    assert asyncio.run(ask()) is not None


def test_how_long_a_decision_hangs_is_known(local, monkeypatch):
    decide = straight_over(local)
    local.selector_scores.may_end.clear()

    async def ask():
        assert await decide(most_s=0.01) is None

    asyncio.run(ask())
    late = straight.monotonic() + 100
    monkeypatch.setattr(straight, "monotonic", lambda: late)
    while_it_hangs = decide.straight.hangs_s
    local.selector_scores.may_end.set()
    decide.straight._threads.shutdown(wait=True)

    assert while_it_hangs == pytest.approx(100, abs=30)
    assert decide.straight.hangs_s == 0


def test_a_decision_that_no_thread_was_free_for_says_nothing_of_the_stages(
    local, caplog
):
    decide = straight_over(local, patience_s=30.0)

    async def ask():
        local.selector_scores.may_end.clear()
        for _ in range(straight._THREADS + 1):
            assert await decide(most_s=0.01) is None
        local.selector_scores.may_end.set()
        return await decide()

    assert asyncio.run(ask()) is not None
    assert caplog.messages == []


def test_a_client_that_leaves_ends_what_has_not_begun(local):
    decide = straight_over(local)
    local.selector_scores.may_end.clear()

    async def ask():
        asked = asyncio.create_task(decide())
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        local.selector_scores.may_end.set()

    asyncio.run(ask())
    assert local.pctr.num_calls == 0


def test_what_the_ranker_last_said_is_remembered(both):
    local, service, decide = both
    decide()
    local.pctr.error = RuntimeError("down")
    service.ranker.error = RuntimeError("down too")

    decided = decide()

    assert decided.origin.fallback_reason == "ranker_failed"
    expected = without_ranker(SAID_ONCE)
    assert decided.decisions.pctr.tolist() == pytest.approx(expected)


def test_without_time_nothing_is_begun(both):
    local, _, decide = both
    decided = decide(Question(budget_s=0.01, waited_s=1.0))
    assert decided.origin.fallback_reason == "selector_late,ranker_late"
    assert local.selector_scores.num_calls == 0
