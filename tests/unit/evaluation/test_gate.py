"""What the gate promises: it opens for what is sound and says why it does not."""

import copy

import pytest

from cacs_ray.evaluation.gate import GateRules, judge


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
        "ranker": {"all": {"calibration": {"ratio": 1.0}}},
        "agreement": {"all": {"top1": 0.7}},
    }


def changed(path, value):
    """Return a sound report with one figure changed; None removes it."""
    whole = copy.deepcopy(report())
    *parents, leaf = path.split(".")
    branch = whole
    for name in parents:
        branch = branch[name]
    branch[leaf] = value
    return whole


def failed(verdict):
    return {check["name"] for check in verdict["checks"] if not check["passed"]}


def test_a_sound_first_release_passes():
    verdict = judge(report())
    assert verdict["passed"]
    assert verdict["reason"] == "all 5 checks passed"
    assert all(check["reason"] is None for check in verdict["checks"])


@pytest.mark.parametrize(
    ("path", "value", "check"),
    [
        ("ranker.all.calibration.ratio", 1.3, "calibration"),
        ("ranker.all.calibration.ratio", 0.7, "calibration"),
        ("ranker.all.calibration.ratio", None, "calibration"),
        ("ranker.all.calibration.ratio", float("nan"), "calibration"),
        ("ranker", {}, "calibration"),
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


def test_thresholds_are_rules():
    strict = GateRules(min_agreement=0.9, min_calibration=1.1)
    assert failed(judge(report(), rules=strict)) == {
        "teacher_agreement",
        "calibration",
    }
