"""The gate's checks on what was measured beside the reports.

Each part is judged only where it was measured; what was asked for and gave no
answer is a failed check.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.evaluation.checks import (
    Check,
    at,
    at_most,
    check,
    is_number,
    not_surely_below,
    within,
)


class MeasuredRules(Config):
    """What a challenger must show where it is run beside the champion."""

    max_p50_ratio: float = Field(default=1.3, gt=0)
    max_p99_ratio: float = Field(default=2.0, gt=0)
    """Latency over that of the champion, same requests, taking turns; the lower end
    of its interval counts, for machines are busy."""
    max_p50_ms: float | None = Field(default=50.0, gt=0)
    """Latency on its own, on the machine of the gate, also of a first release: the
    service's default budget, of which this is only a part. None does not ask."""
    max_p99_ms: float | None = Field(default=None, gt=0)
    """As `max_p50_ms`; not asked by default, for a machine that is busy for a moment
    is no reason to refuse a release."""
    max_ready_s: float | None = Field(default=None, gt=0)
    max_memory_mb: float | None = Field(default=None, gt=0)
    """Seconds until the service is ready with the bundle, and what it then holds in
    megabytes (10^6 bytes). None only tells them: the machine of the gate has a say."""
    min_slice_clicks: float = Field(default=30.0, gt=0)
    """A slice with fewer clicks says nothing and is not checked."""
    min_slice_calibration: float = Field(default=0.6, gt=0)
    max_slice_calibration: float = Field(default=1.7, gt=0)
    """Predicted clicks over clicks in a slice. Farther off than this is allowed only
    where the champion is at least as far off."""


def judge_measured(measured: Mapping[str, Any], rules: MeasuredRules) -> list[Check]:
    """Judge what was measured.

    Args:
        measured: any of `replica` (`replica.try_release`), `service`
            (`served.try_service`), `slices` (`slices.compare_slices`) and
            `counterfactual` (`counterfactual.would_have_won`).
        rules: thresholds.

    Returns:
        The checks, each as `checks.check` makes it.
    """
    checks: list[Check] = []
    if "replica" in measured:
        checks += _replica(measured["replica"], rules)
    if "service" in measured:
        checks += _service(measured["service"], rules)
    if "slices" in measured:
        checks += _slices(measured["slices"], rules)
    if "counterfactual" in measured:
        checks += _counterfactual(measured["counterfactual"])
    return checks


def not_asked(measured: Mapping[str, Any]) -> list[str]:
    """Say which question was not put; that neither passes nor fails.

    >>> not_asked({"counterfactual": {"status": "ok"}})
    []
    >>> not_asked({"counterfactual": {"status": "ok"}, "replica": {"error": None}})
    ['does it serve: not asked, no service was started with it']
    """
    notes = []
    if "replica" in measured and "service" not in measured:
        notes.append("does it serve: not asked, no service was started with it")
    if "counterfactual" not in measured:
        notes.append(
            "would it have won: not asked, no decision log of the champion was named"
        )
    return notes


def _replica(replica: Mapping[str, Any], rules: MeasuredRules) -> Iterator[Check]:
    """Yield checks of a fresh process: does it open, answer alike, and in time?"""
    error, asked = replica.get("error"), replica.get("golden")
    reason = error or "no golden request was answered"
    passed = error is None and is_number(asked) and asked > 0
    yield check("opens_in_replica", asked, "> 0 golden rows", passed, reason)
    if error is not None:
        return
    for name, most in (("p50", rules.max_p50_ms), ("p99", rules.max_p99_ms)):
        if most is not None:
            took = at(replica, "challenger", f"{name}_ms")
            yield at_most(f"latency_{name}_ms", took, most, "too slow")
    if replica.get("champion") is None:
        return
    limits = {"p50": rules.max_p50_ratio, "p99": rules.max_p99_ratio}
    for name, limit in limits.items():
        ratio = at(replica, "ratio", name, "low")
        reason = "surely slower than the champion on the same requests"
        yield at_most(f"latency_{name}_ratio", ratio, limit, reason)


def _service(service: Mapping[str, Any], rules: MeasuredRules) -> Iterator[Check]:
    """Yield whether the service answers as `decide()` does, and what it takes."""
    error, rows = service.get("error"), service.get("rows")
    reason = error or "no golden request was answered"
    passed = error is None and is_number(rows) and rows > 0
    yield check("serves_golden", rows, "> 0 golden rows", passed, reason)
    if error is not None:
        return
    for name, most in (
        ("ready_s", rules.max_ready_s),
        ("memory_mb", rules.max_memory_mb),
    ):
        value = service.get(name)
        if most is None:
            reason = "it was not measured"
            yield check(f"service_{name}", value, "any", is_number(value), reason)
        else:
            yield at_most(f"service_{name}", value, most, "it takes too much")


def _slices(
    slices: Mapping[str, Mapping[str, Any]], rules: MeasuredRules
) -> Iterator[Check]:
    """Yield, per slice of the same impressions, loss, choice and calibration."""
    limits = rules.min_slice_calibration, rules.max_slice_calibration
    for name, figures in slices.items():
        clicks = figures.get("clicks")
        if not is_number(clicks) or clicks < rules.min_slice_clicks:
            continue
        yield not_surely_below(
            f"log_loss {name}",
            at(figures, "log_loss_gain", "high"),
            0.0,
            "predicts clicks surely worse than the champion",
        )
        yield not_surely_below(
            f"choice {name}",
            at(figures, "choice_lift", "high"),
            0.0,
            "chooses creatives surely worse than the champion",
        )
        ratio, before = (
            at(figures, "calibration", side) for side in ("challenger", "champion")
        )
        one = within(f"calibration {name}", ratio, limits, "off, and the champion less")
        yield one if one["passed"] or not _is_nearer(ratio, before) else _let(one)


def _is_nearer(ratio: object, before: object) -> bool:
    """Tell whether a ratio is as near to 1 as the champion's."""
    if not (is_number(ratio) and is_number(before) and ratio > 0 and before > 0):
        return False
    return max(ratio, 1 / ratio) <= max(before, 1 / before)


def _let(one: Check) -> Check:
    return {**one, "passed": True, "reason": None}


def _counterfactual(answer: Mapping[str, Any]) -> Iterator[Check]:
    """Yield whether the champion's own decisions can tell, and what they tell."""
    is_answered = answer.get("status") == "ok"
    reason = f"the decision log cannot tell: {answer.get('reason')}"
    size = answer.get("effective_sample_size")
    yield check("counterfactual_support", size, "support", is_answered, reason)
    if is_answered:
        for name in ("snips", "dr"):
            yield not_surely_below(
                f"would_have_won_{name}",
                at(answer, "lift", name, "high"),
                0.0,
                "would surely have earned fewer clicks than the champion",
            )
