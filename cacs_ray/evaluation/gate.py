"""May a challenger become the champion? Pure functions over two reports."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from cacs_ray.config import Config

Report = Mapping[str, Any]
Check = dict[str, Any]
"""`name`, `value`, `threshold`, `passed`, `reason`."""


class GateRules(Config):
    """What a challenger must show."""

    min_calibration: float = Field(default=0.8, gt=0)
    max_calibration: float = Field(default=1.25, gt=0)
    """Predicted clicks over clicks, on all logged impressions."""
    min_agreement: float = Field(default=0.3, ge=0, le=1)
    """Share of lists where student and teacher put the same creative first."""


def judge(
    challenger: Report,
    champion: Report | None = None,
    rules: GateRules | None = None,
    *,
    is_intact: bool = True,
) -> dict[str, Any]:
    """Compare a challenger's report with the champion's.

    Both must be reports of the same test window, else their lifts are not
    comparable and the gate says so.

    Args:
        challenger: its report, as of `evaluation.report.plain_report`.
        champion: the report of what is served now; None for the first release.
        rules: thresholds.
        is_intact: whether every file of the bundle has the digest of its manifest.

    Returns:
        `passed` (all checks passed), `reason` (one line) and `checks`, each with
        `name`, `value`, `threshold`, `passed` and, when it failed, `reason`. A
        figure that is missing or not a number fails its check.
    """
    rules = rules or GateRules()
    checks = [
        _check("bundle_intact", is_intact, True, is_intact, "digests do not match"),
        _no_nan(challenger),
        _beats_random(challenger),
        _calibrated(challenger, rules),
        _agrees(challenger, rules),
        *_against_champion(challenger, champion),
    ]
    failed = [check for check in checks if not check["passed"]]
    reason = "; ".join(f"{check['name']}: {check['reason']}" for check in failed)
    return {
        "passed": not failed,
        "reason": reason or f"all {len(checks)} checks passed",
        "checks": checks,
    }


def _no_nan(report: Report) -> Check:
    """Figures on which the decision rests must exist."""
    figures = {
        "sctr": _at(report, "policies", "cacs", "sctr", "value"),
        "snips": _at(report, "policies", "cacs", "snips", "value"),
        "lift": _at(report, "policies", "cacs", "lift_over_random", "snips", "value"),
    }
    missing = [name for name, value in figures.items() if not _is_number(value)]
    return _check(
        "figures_exist",
        len(missing),
        0,
        not missing,
        f"no number for {', '.join(missing)}",
    )


def _beats_random(report: Report) -> Check:
    high = _at(report, "policies", "cacs", "lift_over_random", "snips", "high")
    passed = _is_number(high) and high >= 0
    return _check(
        "not_below_random", high, 0.0, passed, "the lift over random is surely negative"
    )


def _calibrated(report: Report, rules: GateRules) -> Check:
    ratio = _at(report, "ranker", "all", "calibration", "ratio")
    limits = [rules.min_calibration, rules.max_calibration]
    passed = _is_number(ratio) and limits[0] <= ratio <= limits[1]
    return _check(
        "calibration", ratio, limits, passed, "predicted clicks are not the clicks"
    )


def _agrees(report: Report, rules: GateRules) -> Check:
    share = _at(report, "agreement", "all", "top1")
    passed = _is_number(share) and share >= rules.min_agreement
    return _check(
        "teacher_agreement",
        share,
        rules.min_agreement,
        passed,
        "the selector does not follow its teacher",
    )


def _against_champion(challenger: Report, champion: Report | None) -> Iterator[Check]:
    """Yield the checks that need two reports; none for the first release."""
    if champion is None:
        return
    same = all(
        _at(challenger, name) == _at(champion, name)
        for name in ("rows", "impressions", "clicks")
    )
    yield _check(
        "same_window",
        _at(challenger, "rows"),
        _at(champion, "rows"),
        same,
        "the two reports judge different impressions",
    )
    for metric in ("sctr", "snips"):
        where = ("policies", "cacs", "lift_over_random", metric)
        high = _at(challenger, *where, "high")
        value = _at(champion, *where, "value")
        passed = _is_number(high) and _is_number(value) and high >= value
        yield _check(
            f"not_worse_{metric}",
            high,
            value,
            passed,
            "the champion's lift lies above the challenger's interval",
        )


def _check(
    name: str, value: object, threshold: object, passed: bool, reason: str
) -> Check:
    return {
        "name": name,
        "value": value,
        "threshold": threshold,
        "passed": passed,
        "reason": None if passed else f"{reason} (value {value}, needed {threshold})",
    }


def _at(report: Report, *path: str) -> Any:  # noqa: ANN401 - any JSON value
    """Follow a path through nested mappings; None where it ends early."""
    value: Any = report
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _is_number(value: object) -> bool:
    is_plain = isinstance(value, int | float) and not isinstance(value, bool)
    return is_plain and math.isfinite(value)  # type: ignore[arg-type]
