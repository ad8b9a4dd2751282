"""What the gate promises: it opens for what is sound and says why it does not."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from cacs_ray.data.splits import Windows
from cacs_ray.evaluation.gate import GateRules, judge
from cacs_ray.evaluation.paired import paired_sums
from tests.unit.evaluation.logs import simulated


def interval(value, spread=2.0):
    return {"value": value, "low": value - spread, "high": value + spread}


def report(lift=10.0):
    return {
        "rows": 100,
        "impressions": 100.0,
        "clicks": 9.0,
        "policies": {
            "cacs": {
                "sctr": interval(0.1),
                "snips": interval(0.1),
                "lift_over_random": {"sctr": interval(lift), "snips": interval(lift)},
            }
        },
        "ranker": {
            "all": {
                "calibration": {"ratio": 1.0},
                "by_bucket": {
                    "0": {"calibration": {"ratio": 1.2, "clicks": 80.0}},
                    "1-10": {"calibration": {"ratio": 5.0, "clicks": 3.0}},
                },
            }
        },
        "agreement": {"all": {"top1": 0.7}},
        "data": {"rows": {"read": 1000, "rejected": 10}},
        "drift": {
            "user.age": {"kind": "category", "divergence": 0.01},
            "creative.creative_id": {"kind": "id", "divergence": 0.2},
        },
        "paired": {
            "digest": "one window",
            "weight": [50.0, 50.0],
            "log_loss": [20.0, 21.0],
            "policies": {"cacs": {"mass": [50.0, 50.0], "clicks": [4.0, 5.0]}},
        },
    }


def changed(path, value):
    """Return a sound report with one figure changed; None removes it."""
    whole = copy.deepcopy(report())
    *parents, leaf = path.replace("user.age", "user age").split(".")
    branch = whole
    for name in parents:
        branch = branch[name.replace(" ", ".")]
    branch[leaf] = value
    return whole


def failed(verdict):
    return {check["name"] for check in verdict["checks"] if not check["passed"]}


def test_a_sound_first_release_passes():
    verdict = judge(report())
    assert verdict["passed"]
    assert verdict["reason"] == "all 9 checks passed"
    assert all(check["reason"] is None for check in verdict["checks"])


@pytest.mark.parametrize(
    ("path", "value", "check"),
    [
        ("ranker.all.calibration.ratio", 1.3, "calibration"),
        ("ranker.all.calibration.ratio", 0.7, "calibration"),
        ("ranker.all.calibration.ratio", None, "calibration"),
        ("ranker.all.calibration.ratio", float("nan"), "calibration"),
        ("ranker", {}, "calibration"),
        ("ranker.all.by_bucket.0.calibration.ratio", 2.0, "calibration 0"),
        ("data.rows.rejected", 60, "reject_share"),
        ("data", {}, "reject_share"),
        ("drift", {}, "drift"),
        ("drift.user.age.divergence", 0.06, "drift user.age"),
        ("agreement.all.top1", 0.1, "teacher_agreement"),
        ("agreement.all.top1", None, "teacher_agreement"),
        ("policies.cacs.sctr.value", None, "figures_exist"),
        ("policies.cacs.snips.value", float("nan"), "figures_exist"),
        ("policies.cacs.lift_over_random.snips", interval(-9), "not_below_random"),
    ],
)
def test_one_bad_figure_closes_the_gate_and_is_named(path, value, check):
    verdict = judge(changed(path, value))
    assert not verdict["passed"]
    assert failed(verdict) == {check}
    assert check in verdict["reason"]


def test_a_damaged_bundle_never_passes():
    verdict = judge(report(), is_intact=False)
    assert failed(verdict) == {"bundle_intact"}


def test_an_empty_report_fails_every_check_but_the_digests():
    verdict = judge({})
    assert failed(verdict) == {
        "figures_exist",
        "not_below_random",
        "calibration",
        "teacher_agreement",
        "reject_share",
        "drift",
    }


@pytest.mark.parametrize(("lift", "passed"), [(9.0, True), (8.0, True), (7.9, False)])
def test_a_challenger_may_be_worse_only_within_its_interval(lift, passed):
    # The champion's lift is 10, the interval of the challenger reaches 2 up.
    verdict = judge(report(lift), report(10.0))
    assert verdict["passed"] is passed
    if not passed:
        assert failed(verdict) == {"not_worse_sctr", "not_worse_snips"}


def test_reports_of_different_windows_are_not_compared_in_silence():
    verdict = judge(report(), changed("rows", 99))
    assert failed(verdict) == {"same_window"}


GOOD, _, _ = simulated(0)
BLUNT = replace(GOOD, pctr=np.full_like(GOOD.pctr, GOOD.label.mean()))
"""Without an order among creatives, but right on average."""
PERVERSE = replace(GOOD, selector_scores=-GOOD.selector_scores)


def judged_on(log):
    """Return a sound report with the sums of a log."""
    return report() | {"paired": paired_sums(log)}


@pytest.mark.parametrize(
    ("worse", "check"), [(BLUNT, "paired_log_loss"), (PERVERSE, "paired_snips")]
)
def test_surely_worse_on_the_same_impressions_is_refused_and_better_passes(
    worse, check
):
    verdict = judge(judged_on(worse), judged_on(GOOD))
    assert failed(verdict) == {check}
    assert "surely worse than the champion" in verdict["reason"]
    assert judge(judged_on(GOOD), judged_on(worse))["passed"]
    assert judge(judged_on(worse), judged_on(worse))["passed"]


def test_a_challenger_without_a_ranker_has_no_paired_log_loss():
    verdict = judge(judged_on(replace(GOOD, pctr=None)), judged_on(GOOD))
    assert failed(verdict) == {"paired_log_loss"}


@pytest.mark.parametrize(
    ("sums", "reason"),
    [(None, "no sums"), (paired_sums(simulated(1)[0]), "different impressions")],
)
@pytest.mark.parametrize("side", ["challenger", "champion"])
def test_what_cannot_be_compared_in_pairs_is_said(side, sums, reason):
    sides = {"challenger": judged_on(GOOD), "champion": judged_on(GOOD)}
    sides[side]["paired"] = sums
    verdict = judge(**sides)
    assert failed(verdict) == {"same_impressions"}
    assert reason in verdict["reason"]
    assert "--logs" in verdict["reason"]


def test_thresholds_are_rules():
    strict = GateRules(min_agreement=0.9, min_calibration=1.1)
    assert failed(judge(report(), rules=strict)) == {
        "teacher_agreement",
        "calibration",
    }


def test_thresholds_that_were_changed_are_told():
    changes = {"max_drift": "0.2", "measured.max_p50_ratio": "3"}
    verdict = judge(report(), rules=GateRules().override(changes))
    told = 'thresholds changed: {"max_drift": 0.2, "measured": {"max_p50_ratio": 3.0}}'
    assert told in verdict["notes"]
    assert len(judge(report())["notes"]) == 1


def with_bucket(lift, clicks=80.0, train_end_us=7):
    """Return a sound report with the lift of the bucket of new creatives."""
    whole = report()
    windows = Windows(
        train_start_us=0, train_end_us=train_end_us, validation_end_us=8, test_end_us=9
    )
    whole["windows"] = windows.model_dump()
    part = {"lift_over_random": {"snips": interval(lift)}, "matched_clicks": clicks}
    whole["policies"]["cacs"]["by_bucket"] = {"0": part}
    return whole


def test_worse_on_new_creatives_alone_is_worse():
    verdict = judge(with_bucket(4.0), with_bucket(10.0))
    assert failed(verdict) == {"not_worse_snips 0"}


@pytest.mark.parametrize("champion", [{"clicks": 10.0}, {"train_end_us": 6}])
def test_buckets_that_say_nothing_or_mean_another_thing_are_left_out(champion):
    verdict = judge(with_bucket(4.0), with_bucket(10.0, **champion))
    assert verdict["passed"]


def replica(**changes):
    side = {"p50_ms": 1.0, "p99_ms": 3.0}
    ratio = {"p50": {"low": 0.9}, "p99": {"low": 0.5}}
    sides = {"challenger": side, "champion": side, "ratio": ratio}
    return {"error": None, "golden": 8, **sides, **changes}


def slices(**changes):
    figures = {
        "clicks": 40.0,
        "calibration": {"challenger": 1.1, "champion": 1.0},
        "log_loss_gain": interval(0.0, 0.1),
        "choice_lift": interval(0.0, 5.0),
    }
    return {"new": {**figures, **changes}}


def answer(**changes):
    lift = {"snips": interval(1.0), "dr": interval(1.0)}
    whole = {"status": "ok", "effective_sample_size": 900.0, "lift": lift}
    return {**whole, **changes}


def measured(**parts):
    return {
        "replica": replica(),
        "service": {"error": None, "rows": 32, "ready_s": 4.0, "memory_mb": 500.0},
        "slices": slices(),
        "counterfactual": answer(),
        **parts,
    }


def test_what_was_measured_and_is_sound_passes():
    verdict = judge(report(), measured=measured())
    assert verdict["passed"], verdict["reason"]


@pytest.mark.parametrize(
    ("part", "check"),
    [
        ({"replica": {"error": "a file is missing"}}, "opens_in_replica"),
        ({"replica": replica(golden=0)}, "opens_in_replica"),
        (
            {"replica": replica(ratio={"p50": {"low": 1.4}, "p99": {"low": 1}})},
            "latency_p50_ratio",
        ),
        (
            {"replica": replica(ratio={"p50": {"low": 1}, "p99": {"low": 2.1}})},
            "latency_p99_ratio",
        ),
        ({"replica": replica(ratio=None)}, "latency_p50_ratio"),
        ({"slices": slices(log_loss_gain=interval(-1, 0.5))}, "log_loss new"),
        ({"slices": slices(choice_lift=interval(-9, 5.0))}, "choice new"),
        (
            {"slices": slices(calibration={"challenger": 2, "champion": 1})},
            "calibration new",
        ),
        (
            {"counterfactual": {"status": "refused", "reason": "thin support"}},
            "counterfactual_support",
        ),
        (
            {"counterfactual": answer(lift={"snips": interval(-9), "dr": interval(1)})},
            "would_have_won_snips",
        ),
    ],
)
def test_each_measurement_can_close_the_gate(part, check):
    verdict = judge(report(), measured=measured(**part))
    assert check in failed(verdict)
    assert check in verdict["reason"]


def test_a_question_that_was_not_put_is_a_note_and_no_failure():
    unasked = measured()
    del unasked["counterfactual"]
    verdict = judge(report(), measured=unasked)
    assert verdict["passed"]
    assert [note.partition(",")[0] for note in verdict["notes"]] == [
        "would it have won: not asked"
    ]
    assert judge(report(), measured=measured())["notes"] == []


def test_a_slice_may_be_as_badly_calibrated_as_the_champion():
    both = slices(calibration={"challenger": 2.0, "champion": 0.4})
    assert judge(report(), measured=measured(slices=both))["passed"]


def test_a_slice_with_few_clicks_is_not_checked():
    few = slices(clicks=3.0, choice_lift=interval(-9, 5.0))
    assert judge(report(), measured=measured(slices=few))["passed"]


@pytest.mark.parametrize(("limit", "is_asked"), [(2.0, True), (None, False)])
def test_latency_alone_is_asked_of_the_first_release(limit, is_asked):
    rules = GateRules.model_validate({"measured": {"max_p99_ms": limit}})
    first = measured(replica=replica(champion=None, ratio=None))
    assert judge(report(), measured=first)["passed"]
    expected = {"latency_p99_ms"} if is_asked else set()
    assert failed(judge(report(), rules=rules, measured=first)) == expected
