"""What a crowded gateway promises: selection as always, no ranker, and it says so."""

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from cacs_ray.schema import POLICIES
from serve.api import DecideRequest
from serve.clicks import FirstPlaces
from serve.decision_log import DecisionLog, LogLimits
from serve.fused import in_process
from serve.gateway import Gateway, Logs, Question, Rules, ServedRelease
from serve.holder import OneRelease
from serve.metrics import Metrics
from serve.stage import Stages
from serve.straight import LocalStages, Straight
from tests.unit.serve.conftest import (
    PCTR,
    SAID_ONCE,
    SCORES,
    TRAINING_CTR,
    LocalStage,
    mean_ctr,
    without_ranker,
)

CROWDED = Question(is_crowded=True)


@pytest.fixture(params=["straight", "stage by stage"])
def crowd(request, make_service, release, page_view, tmp_path):
    """A gateway over local stages, with all that hears of its decisions."""
    stages = LocalStages(LocalStage(SCORES), LocalStage(SCORES), LocalStage(PCTR))
    opened = LocalStage(PCTR)
    asked = in_process(stages)
    if request.param == "stage by stage":
        opening = in_process(LocalStages(opened, opened, opened)).pctr
        asked = Stages(asked.selector_scores, asked.teacher_scores, asked.pctr, opening)
    metrics = Metrics()
    log = DecisionLog(tmp_path / "log", metrics, LogLimits(flush_s=3600))
    places = FirstPlaces()
    gateway = Gateway(
        OneRelease("r1", ServedRelease(release)),
        asked,
        Rules(make_service().gateway._rules.arms, budget_s=30.0),
        logs=Logs(log, first_places=places),
        metrics=metrics,
        straight=Straight(stages) if request.param == "straight" else None,
    )
    body = DecideRequest.model_validate_json(json.dumps(page_view))

    def decide(question=CROWDED):
        return asyncio.run(gateway.decide(body, question))

    yield SimpleNamespace(
        decide=decide, stages=stages, opened=opened, metrics=metrics,
        places=places, gateway=gateway, log=log, directory=tmp_path / "log",
    )  # fmt: skip
    log.close()


def pctr_of(decided):
    return decided.decisions.pctr.tolist()


def chosen(decided):
    names = [None, "wool", "straw", "blue", "red"]
    return [names[row] for row in decided.decisions.creative_row]


def test_the_selector_chooses_and_the_ranker_is_not_asked(crowd):
    decided = crowd.decide()

    assert chosen(decided) == ["wool", "blue"]
    assert crowd.stages.pctr.num_calls == crowd.opened.num_calls == 0
    assert pctr_of(decided) == pytest.approx(without_ranker(TRAINING_CTR))
    assert decided.origin.fallback_reason == "ranker_spared"
    assert decided.origin.is_fallback
    assert (decided.rung.choice, decided.rung.ctr) == (
        "fresh_selection",
        "training_ctr",
    )


def test_what_the_ranker_said_before_is_remembered_and_nothing_else(crowd):
    crowd.decide()
    again = crowd.decide()
    assert pctr_of(again) == pytest.approx(without_ranker(TRAINING_CTR))
    assert again.rung.ctr == "training_ctr"

    assert crowd.decide(Question()).decisions.pctr.tolist() == [0.10, 0.05]
    later = crowd.decide()

    assert pctr_of(later) == pytest.approx(without_ranker(SAID_ONCE))
    assert later.rung.ctr == "last_ctr"


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_order_does_without_the_ranker(crowd, policy):
    decided = crowd.decide(Question(order=policy, is_crowded=True))

    asked = crowd.stages
    assert (asked.pctr.num_calls, asked.teacher_scores.num_calls) == (0, 0)
    spared = ["teacher_spared"] if policy == "teacher" else []
    assert decided.origin.fallback_reason == ",".join([*spared, "ranker_spared"])
    assert set(decided.decisions.slot.tolist()) == {0, 1}


def test_an_ad_whose_creative_is_not_chosen_yet_counts_as_the_mean_of_its_own(crowd):
    question = Question(order="post_rank", is_crowded=True)
    decided = crowd.decide(question)
    expected = mean_ctr(TRAINING_CTR).tolist()
    assert pctr_of(decided) == pytest.approx(expected)
    assert decided.rung.ctr == "training_ctr"

    # wool and blue are known now, straw and red are not.
    crowd.decide(Question())
    decided = crowd.decide(question)
    assert pctr_of(decided) == pytest.approx(mean_ctr(SAID_ONCE).tolist())
    assert decided.rung.ctr == "training_ctr"


@pytest.mark.parametrize("policy", ["popular", "rank_only"])
def test_without_scores_of_the_selector_a_creative_counts_for_itself(crowd, policy):
    decided = crowd.decide(Question(order=policy, is_crowded=True))
    expected = [TRAINING_CTR[name] for name in chosen(decided)]
    assert pctr_of(decided) == pytest.approx(expected)


def test_beside_the_selector_the_mean_is_corrected_as_ever(crowd):
    decided = crowd.decide(Question(order="parallel", is_crowded=True))
    assert pctr_of(decided) == pytest.approx(without_ranker(TRAINING_CTR))


def test_the_log_says_it(crowd):
    crowd.decide()
    crowd.log.close()

    (file,) = crowd.directory.glob("*.parquet")
    rows = pq.read_table(file).to_pydict()
    assert rows["is_fallback"] == [True, True]
    assert rows["fallback_reason"] == ["ranker_spared"] * 2
    assert rows["pctr"] == pytest.approx(without_ranker(TRAINING_CTR))


def test_calibration_is_of_what_the_ranker_said(crowd):
    value = crowd.metrics.registry.get_sample_value
    crowd.decide()
    assert value("cacs_predicted_clicks_total") == 0
    assert not crowd.places.click("q1", "shoe")

    crowd.decide(Question())
    assert value("cacs_predicted_clicks_total") == pytest.approx(0.05)
    assert crowd.places.click("q1", "shoe")


def test_what_is_shown_is_chosen_as_ever(crowd):
    in_full, without = crowd.decide(Question()).decisions, crowd.decide().decisions
    for name in ("creative_row", "propensity", "selector_score"):
        np.testing.assert_array_equal(getattr(in_full, name), getattr(without, name))
