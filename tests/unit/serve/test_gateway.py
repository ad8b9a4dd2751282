"""What the gateway promises: one decision per request, whatever a stage does."""

import asyncio
import json
from datetime import UTC, datetime

import numpy as np
import pytest

from serve.api import DecideRequest
from serve.gateway import Question
from serve.stage import Stages
from tests.unit.serve.conftest import (
    PCTR,
    SAID_ONCE,
    SCORES,
    TRAINING_CTR,
    Stage,
    without_ranker,
)


def test_the_selector_chooses_then_the_ranker_prices_then_the_auction_runs(
    make_service, page_view
):
    answer = make_service().send(page_view).json()

    # 1000 x 0.05 x 400 000 beats 1000 x 0.10 x 100 000; a click costs what keeps
    # the place, 0.10 x 100 000 / 0.05.
    assert [
        (p["slot"], p["ad_id"], p["creative_id"], p["ecpm_micros"])
        for p in answer["placements"]
    ] == [
        (0, "shoe", "blue", pytest.approx(1000 * 0.05 * 400_000)),
        (1, "hat", "wool", pytest.approx(1000 * 0.10 * 100_000)),
    ]
    assert 0.10 * 100_000 / 0.05 <= answer["placements"][0]["price_micros"] <= 200_001
    assert answer["release"] == "r1"
    assert answer["policy"] == "cacs"
    assert (answer["is_fallback"], answer["fallback_reason"]) == (False, None)
    assert answer["rung"] == {"choice": "fresh_selection", "ctr": "ranker"}
    assert "decisions" not in answer


def test_explaining_lists_every_candidate_shown_or_not(make_service, page_view):
    page_view["num_slots"] = 1

    answer = make_service().send(page_view, path="/v1/decide?explain=true").json()

    assert [
        (d["ad_id"], d["slot"], d["price_micros"]) for d in answer["decisions"]
    ] == [
        ("hat", None, None),
        ("shoe", 0, answer["placements"][0]["price_micros"]),
    ]
    assert answer["decisions"][0]["candidate_creative_ids"] == ["wool", "straw"]


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        ({"is_stuck": True}, "late"),
        ({"error": RuntimeError("down")}, "failed"),
        ({"error": KeyError("bug")}, "failed"),
        ({"call_error": RuntimeError("no thread is left")}, "failed"),
        ({"by_row": np.full(5, np.nan, np.float32)}, "not_finite"),
        ({"by_row": np.zeros((5, 3), np.float32)}, "not_finite"),
        ({"release": "r0"}, "other_release"),
    ],
)
def test_a_broken_selector_is_replaced_by_the_popular_creative(
    make_service, page_view, fault, how
):
    # Only a stage that is late costs the time; others shall not be late as well.
    service = make_service(budget_s=0.6 if how == "late" else 30.0)
    for name, value in fault.items():
        setattr(service.selector, name, value)

    answer = service.send(page_view).json()

    assert {p["ad_id"]: p["creative_id"] for p in answer["placements"]} == {
        "hat": "straw",
        "shoe": "red",
    }
    assert answer["is_fallback"]
    assert answer["fallback_reason"] == f"selector_{how}"
    assert answer["rung"] == {"choice": "popular_creative", "ctr": "ranker"}


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        ({"is_stuck": True}, "late"),
        ({"error": OSError("gone")}, "failed"),
        ({"call_error": RuntimeError("no thread is left")}, "failed"),
        ({"by_row": np.full(5, np.nan)}, "not_finite"),
        ({"by_row": np.full(5, 1.5)}, "not_finite"),
        ({"release": "r0"}, "other_release"),
    ],
)
def test_a_broken_ranker_is_replaced_by_the_smoothed_ctr_and_the_selector(
    make_service, page_view, fault, how
):
    # Only a stage that is late costs the time; others shall not be late as well.
    service = make_service(budget_s=0.6 if how == "late" else 30.0)
    for name, value in fault.items():
        setattr(service.ranker, name, value)

    answer = service.send(page_view).json()

    wool, blue = without_ranker(TRAINING_CTR)
    assert {p["creative_id"]: p["pctr"] for p in answer["placements"]} == {
        "wool": pytest.approx(wool),
        "blue": pytest.approx(blue),
    }
    assert answer["fallback_reason"] == f"ranker_{how}"
    assert answer["rung"] == {"choice": "fresh_selection", "ctr": "training_ctr"}


def test_a_ranker_that_breaks_later_is_replaced_by_what_it_last_said(
    make_service, page_view
):
    service = make_service()
    service.send(page_view)
    service.ranker.error = RuntimeError("down")

    answer = service.send(page_view).json()

    wool, blue = without_ranker(SAID_ONCE)
    assert [p["pctr"] for p in answer["placements"]] == pytest.approx([blue, wool])
    assert answer["is_fallback"]
    assert answer["rung"] == {"choice": "fresh_selection", "ctr": "last_ctr"}


def test_without_counts_the_first_live_creative_is_the_popular_one(
    make_service, page_view, release
):
    release.catalogue.clicks[:] = 0
    release.catalogue.impressions[:] = 0
    service = make_service()
    service.selector.error = RuntimeError("down")

    answer = service.send(page_view).json()

    assert {p["creative_id"] for p in answer["placements"]} == {"wool", "blue"}
    assert answer["rung"] == {"choice": "default_creative", "ctr": "ranker"}


def test_with_both_stages_stuck_the_answer_still_keeps_the_deadline(
    make_service, page_view
):
    service = make_service(budget_s=30.0)
    service.selector.is_stuck = service.ranker.is_stuck = True

    response = service.send(page_view, headers={"x-request-timeout-ms": "300"})

    assert response.json()["fallback_reason"] == "selector_late,ranker_late"
    # 0.6 of 300 ms, then 0.6 of the rest; what is left is the decision's.
    assert _milliseconds(response, "total") < 300


def test_nothing_keeps_running_after_the_deadline(make_service, page_view):
    service = make_service(budget_s=0.03)
    service.selector.is_stuck = service.ranker.is_stuck = True
    request = DecideRequest.model_validate_json(json.dumps(page_view))

    async def ask():
        await service.gateway.decide(request)
        # A cancelled task ends when the loop next comes round to it.
        for _ in range(3):
            await asyncio.sleep(0)
        return service.selector.is_cancelled, service.ranker.is_cancelled

    assert asyncio.run(ask()) == (True, True)


def _milliseconds(response, stage: str) -> float:
    timing = dict(
        part.split(";dur=") for part in response.headers["server-timing"].split(", ")
    )
    return float(timing[stage])


def test_the_rankers_page_is_opened_while_the_selector_chooses(make_service, page_view):
    opening = Stage(PCTR)

    class WaitingSelector(Stage):
        async def _answer(self, creatives):
            while not opening.num_calls:
                await asyncio.sleep(0)
            return await super()._answer(creatives)

    service = make_service(budget_s=0.5)
    service.gateway._stages = Stages(
        WaitingSelector(SCORES), service.teacher, service.ranker, opening
    )

    assert not service.send(page_view).json()["is_fallback"]
    assert opening.num_calls == 1


def test_the_time_in_each_stage_is_in_the_header(make_service, page_view):
    response = make_service().send(page_view)
    total = _milliseconds(response, "total")
    parts = [_milliseconds(response, s) for s in ("prepare", "selector", "ranker")]
    assert 0 < sum(parts) <= total + 0.02


@pytest.mark.parametrize("policy", ["random", "popular", "thompson"])
def test_a_policy_without_scores_asks_no_selector(make_service, page_view, policy):
    service = make_service(policy=policy)
    answer = service.send(page_view).json()
    assert service.selector.num_calls == 0
    assert answer["policy"] == policy
    assert not answer["is_fallback"]


@pytest.mark.parametrize(
    "policy",
    ["cacs", "post_rank", "parallel", "random", "popular", "thompson", "teacher"],
)
def test_a_propensity_is_a_probability(make_service, page_view, policy):
    service = make_service(policy=policy, epsilon=0.1)
    for number in range(5):
        answer = service.send(page_view | {"request_id": f"q{number}"}).json()
        assert all(0 < p["propensity"] <= 1 for p in answer["placements"])


def test_the_same_request_is_decided_the_same_way(make_service, page_view):
    service = make_service(policy="random")
    first, again = service.send(page_view).json(), service.send(page_view).json()
    assert first == again


@pytest.mark.parametrize(
    ("candidate", "rule"),
    [
        ({"ad_id": "ghost"}, "unknown_ad"),
        ({"ad_id": "hat", "creative_ids": ["ghost"]}, "unknown_creative"),
        ({"ad_id": "hat", "creative_ids": ["blue"]}, "creative_of_other_ad"),
        ({"ad_id": "hat", "pinned_creative_id": "blue"}, "creative_of_other_ad"),
    ],
)
def test_an_ad_that_cannot_take_part_is_listed_and_the_others_go_on(
    make_service, page_view, candidate, rule
):
    page_view["candidates"][0] = {"bid_micros": 100_000} | candidate

    response = make_service().send(page_view)

    assert response.status_code == 200
    assert response.json()["rejected"] == [{"ad_id": candidate["ad_id"], "rule": rule}]
    assert [p["ad_id"] for p in response.json()["placements"]] == ["shoe"]


def test_when_no_ad_can_take_part_nothing_is_shown(make_service, page_view):
    page_view["candidates"] = [{"ad_id": "ghost", "bid_micros": 1}]
    service = make_service()

    response = service.send(page_view)

    assert response.status_code == 200
    assert response.json()["placements"] == []
    assert service.selector.num_calls == 0


def test_a_pinned_creative_is_shown_with_certainty(make_service, page_view):
    page_view["candidates"][0]["pinned_creative_id"] = "straw"
    answer = make_service(epsilon=0.5).send(page_view).json()
    hat = next(p for p in answer["placements"] if p["ad_id"] == "hat")
    assert (hat["creative_id"], hat["propensity"]) == ("straw", 1.0)


def test_the_stages_are_told_what_the_request_declared(make_service, page_view):
    service = make_service()
    service.send(page_view)
    page = service.selector.page
    assert page.features == {"device": "phone", "hour": 7.0}
    assert page.ad_ids == ("hat", "shoe")
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert page.request_ts_us == int(moment.timestamp()) * 1_000_000


def test_what_happened_is_counted(make_service, page_view):
    service = make_service()
    service.selector.error = RuntimeError("down")
    service.send(page_view)
    service.send(b"not json")

    page = service.send(None, path="/metrics", method="GET").text

    for line in (
        'cacs_requests_total{status="200"} 1.0',
        'cacs_requests_total{status="422"} 1.0',
        'cacs_fallbacks_total{reason="selector_failed"} 1.0',
        'cacs_lower_rungs_total{part="choice",rung="popular_creative"} 1.0',
        "cacs_decisions_total 2.0",
        'cacs_stage_seconds_count{stage="ranker"} 1.0',
        'cacs_release{release="r1"} 1.0',
    ):
        assert line in page.splitlines()


def test_a_request_without_a_time_is_asked_now(make_service, page_view):
    del page_view["request_ts"]
    service = make_service()
    before = datetime.now(UTC).timestamp()

    asyncio.run(service.gateway.decide(DecideRequest.model_validate(page_view)))

    assert before <= service.selector.page.request_ts_us / 1e6


def test_who_waited_past_the_deadline_asks_no_stage(make_service, page_view):
    """What a stage would compute for nobody, others wait for."""
    service = make_service(budget_s=0.05)
    asked = DecideRequest.model_validate_json(json.dumps(page_view))

    decided = asyncio.run(service.gateway.decide(asked, Question(waited_s=0.06)))

    assert decided.origin.fallback_reason == "selector_late,ranker_late"
    assert service.selector.num_calls == service.ranker.num_calls == 0
    assert decided.seconds["queue"] == 0.06 < decided.seconds["total"]


def test_a_handles_answer_that_is_late_is_told_to_stop(make_service, page_view):
    class Answer:
        """Like a handle's answer: dropping the wait does not stop the work."""

        is_told = False

        def __await__(self):
            yield from asyncio.Event().wait().__await__()

        def cancel(self):
            self.is_told = True

    answer = Answer()
    service = make_service(budget_s=0.05)
    service.selector.remote = lambda *_: answer

    service.send(page_view)

    assert answer.is_told


def explored(service):
    value = service.gateway.metrics.registry.get_sample_value
    return value("cacs_decisions_explored_total")


@pytest.mark.parametrize(
    "settings", [{"policy": "thompson"}, {"policy": "cacs", "epsilon": 0.8}]
)
def test_what_is_not_the_likeliest_choice_counts_as_explored(
    make_service, page_view, settings
):
    service = make_service(**settings)
    shares = []
    for number in range(60):
        asked = page_view | {"request_id": f"q{number}"}
        answer = service.send(asked).json()
        shares += [placed["propensity"] for placed in answer["placements"]]

    # Of two creatives the less likely one has less than a half.
    less_likely = sum(share < 0.5 for share in shares)
    assert explored(service) == less_likely > 0


def test_a_pin_is_no_exploration(make_service, page_view):
    page_view["candidates"][0]["pinned_creative_id"] = "straw"
    service = make_service()
    service.send(page_view)
    assert explored(service) == 0


def test_a_bug_is_counted_and_named(make_service, page_view, monkeypatch):
    service = make_service()

    async def fail(*_):
        raise RuntimeError("a secret")

    monkeypatch.setattr(service.gateway, "decide", fail)
    answer = service.send(page_view, headers={"x-request-id": "call-1"})

    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "call-1"
    assert "secret" not in answer.text
    value = service.gateway.metrics.registry.get_sample_value
    assert value("cacs_requests_total", {"status": "500"}) == 1
