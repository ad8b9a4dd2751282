"""One check of the gate: a figure, its threshold, and why it failed."""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

Report = Mapping[str, Any]
Check = dict[str, Any]
"""`name`, `value`, `threshold`, `passed`, `reason`."""


def check(
    name: str, value: object, threshold: object, passed: bool, reason: str
) -> Check:
    """Return a check; `reason` says what is wrong and is kept only if it failed."""
    # Enough digits to see on which side of the threshold it lies.
    shown = f"{value:.6g}" if isinstance(value, float) else value
    return {
        "name": name,
        "value": value,
        "threshold": threshold,
        "passed": bool(passed),
        "reason": None if passed else f"{reason} (value {shown}, needed {threshold})",
    }


def at_most(name: str, value: object, limit: float, reason: str) -> Check:
    """Check a figure against its upper limit; a missing one fails."""
    return check(name, value, limit, is_number(value) and value <= limit, reason)


def within(name: str, value: object, limits: tuple[float, float], reason: str) -> Check:
    """Check a figure against both limits; a missing one fails."""
    low, high = limits
    passed = is_number(value) and low <= value <= high
    return check(name, value, list(limits), passed, reason)


def not_surely_below(name: str, high: object, least: object, reason: str) -> Check:
    """Fail where the upper end of an interval lies below what is needed."""
    passed = is_number(high) and is_number(least) and high >= least
    return check(name, high, least, passed, reason)


def at(report: Report, *path: str) -> Any:  # noqa: ANN401 - any JSON value
    """Follow a path through nested mappings; None where it ends early."""
    value: Any = report
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)
