"""A whole decision in one thread decides as stage by stage does, ladder and all."""

import asyncio
import json
import threading

import numpy as np
import pytest

from cacs_ray.schema import POLICIES
from serve import straight
from serve.api import DecideRequest
from serve.gateway import Gateway, Question, Rules, ServedRelease
from serve.holder import OneRelease
from serve.stage import StageAnswer
from serve.straight import LocalStages, Straight
from tests.unit.serve.conftest import PCTR, SCORES


class LocalStage:
    """A stage's method in this process, that can be told to fail."""

    def __init__(self, by_row):
        self.by_row, self.num_calls = by_row, 0
        self.error = None
        self.release = None
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self, release, page, creatives):
        self.num_calls += 1
        self.may_end.wait(30)
        if self.error:
            raise self.error
        return StageAnswer(self.release or release, self.by_row[creatives])


@pytest.fixture
def both(make_service, release, page_view):
    """Local stages, stages that are asked one by one, and a way to decide."""
    service = make_service()
    local = LocalStages(LocalStage(SCORES), LocalStage(SCORES), LocalStage(PCTR))
    held = OneRelease("r1", ServedRelease(release))
    stages = service.gateway._stages
    rules = Rules(service.gateway._rules.arms, budget_s=30.0)
    gateway = Gateway(held, stages, rules, straight=Straight(local, patience_s=30.0))
    request = DecideRequest.model_validate_json(json.dumps(page_view))

    def decide(question=None, over=gateway):
        return asyncio.run(over.decide(request, question))

    return local, service, decide


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_order_decides_as_stage_by_stage(both, policy):
    local, service, decide = both
    by_stages = decide(Question(order=policy), over=service.gateway).decisions
    calls = service.ranker.num_calls

    at_once = decide(Question(order=policy)).decisions

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
    decide()
    local.pctr.error = None
    asked = local.pctr.num_calls

    now[0] += straight.WARY_S / 2
    decide()
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
    local.selector_scores.may_end.set()
    assert local.pctr.num_calls == 0


def test_what_the_ranker_last_said_is_remembered(both):
    local, service, decide = both
    decide()
    local.pctr.error = RuntimeError("down")
    service.ranker.error = RuntimeError("down too")

    decided = decide()

    assert decided.origin.fallback_reason == "ranker_failed"
    assert decided.decisions.pctr.tolist() == [0.10, 0.05]


def test_without_time_nothing_is_begun(both):
    local, _, decide = both
    decided = decide(Question(budget_s=0.01, waited_s=1.0))
    assert decided.origin.fallback_reason == "selector_late,ranker_late"
    assert local.selector_scores.num_calls == 0
