"""Which answers of the service the gate takes, and what it says of others."""

import copy

import pytest

from cacs_ray.evaluation.gate import judge
from cacs_ray.evaluation.gate_measured import MeasuredRules, judge_measured
from cacs_ray.evaluation.served import Golden, difference


def row(creative, slot, score=0.5):
    return {
        "ad_id": f"ad of {creative}",
        "creative_id": creative,
        "slot": slot,
        "propensity": 1.0,
        "selector_score": score,
        "pctr": 0.01,
        "ecpm_micros": 2500.0,
    }


ROWS = [row("blue", 0), row("wool", None, score=None)]
GOLDEN = Golden({}, {one["ad_id"]: one for one in ROWS}, "release")


def answer():
    """What the service must say to the golden request."""
    return {
        "release": "release",
        "is_fallback": False,
        "fallback_reason": None,
        "decisions": copy.deepcopy(ROWS),
        "placements": [copy.deepcopy(ROWS[0])],
    }


def test_the_same_decisions_are_no_difference():
    assert difference(answer(), GOLDEN) is None


def test_rounding_is_no_difference():
    rounded = answer()
    rounded["decisions"][0] |= {"selector_score": 0.500001, "pctr": 0.0100000001}
    assert difference(rounded, GOLDEN) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"release": "another"}, "release another answered, not release"),
        (
            {"is_fallback": True, "fallback_reason": "selector_failed"},
            "a fallback answered: selector_failed",
        ),
        ({"decisions": ROWS[:1]}, "one side alone: ad of wool"),
        ({"placements": []}, r"\[\] are shown, not "),
    ],
)
def test_another_answer_is_told(changes, told):
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(difference(answer() | changes, GOLDEN))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("creative_id", "green"),
        ("slot", None),
        ("selector_score", 0.51),
        ("selector_score", None),
        ("pctr", 0.01001),
        ("ecpm_micros", 2501.0),
        ("propensity", 0.9),
    ],
)
def test_another_decision_is_told_with_its_ad(name, value):
    other = answer()
    other["decisions"][0][name] = value
    told = difference(other, GOLDEN)
    assert told.startswith(f"{name} of ad 'ad of blue' is {value}, not ")


def service(**changes):
    return {"error": None, "rows": 32, "ready_s": 4.0, "memory_mb": 500.0, **changes}


def failed(told, **limits):
    checks = judge_measured({"service": told}, MeasuredRules(**limits))
    return {check["name"] for check in checks if not check["passed"]}


def test_a_service_that_answers_alike_passes_and_tells_its_figures():
    checks = judge_measured({"service": service()}, MeasuredRules())
    assert {check["name"]: check["value"] for check in checks} == {
        "serves_golden": 32,
        "service_ready_s": 4.0,
        "service_memory_mb": 500.0,
    }
    assert all(check["passed"] for check in checks)


@pytest.mark.parametrize(
    ("told", "limits", "names"),
    [
        (service(error="it ended"), {}, {"serves_golden"}),
        (service(rows=0), {}, {"serves_golden"}),
        (service(memory_mb=None), {}, {"service_memory_mb"}),
        (service(), {"max_ready_s": 3}, {"service_ready_s"}),
        (service(), {"max_memory_mb": 499}, {"service_memory_mb"}),
        (service(), {"max_ready_s": 5, "max_memory_mb": 501}, set()),
    ],
)
def test_each_figure_of_the_service_can_close_the_gate(told, limits, names):
    assert failed(told, **limits) == names


def test_a_gate_that_starts_no_service_says_so():
    notes = judge({}, measured={"replica": {"error": None}})["notes"]
    assert [note for note in notes if note.startswith("does it serve: not asked")]
