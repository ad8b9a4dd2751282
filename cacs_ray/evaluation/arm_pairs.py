"""Two arms of a live test compared: now, and at every look until now.

L  looks at the growing log     6  moments, see `metrics.sequential.ratio_moments`
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from cacs_ray.metrics.sequential import (
    Estimate,
    always_valid_p_value,
    always_valid_radius,
    difference,
    fixed_p_value,
    fixed_radius,
    intrinsic_time,
    log_ratio,
    ratio_estimate,
    tuned_scale,
)

Figures = dict[str, Any]
Moments = Mapping[str, Float[np.ndarray, "L 6"]]
"""By metric; `ctr` must be among them: its numerator counts clicks."""

_CLICKS = "ctr"


@dataclass(frozen=True, slots=True)
class Plan:
    """What was fixed before the looks; see `arms.ArmSettings`."""

    alpha: float
    """Of this pair."""
    min_clicks: int
    planned_clicks: int


def compare_pair(
    names: tuple[str, str],
    moments: tuple[Moments, Moments],
    times_us: Sequence[int],
    plan: Plan,
) -> Figures:
    """Compare the second arm with the first.

    Args:
        names: of the arms.
        moments: of each arm by metric, at each look.
        times_us: when each look was.
        plan: alpha and when the looks begin.

    Returns:
        `first`, `second`, `first_look_us` (None while an arm has too few clicks),
        and `metrics`, for each:

        - `fixed`, for one planned look at the end: `difference` and relative `lift`
          with intervals, `p_value`;
        - `always_valid`, for any number of looks: the same, its `p_value` the least
          so far; `better`, the name of the arm that earns more, or None while that
          is not sure; `decided_us`, the first look at which it was;
        - `curve`: the lists `ts_us`, `difference`, `low`, `high`, `p_value`.

        Values are NaN where they are not known.
    """
    clicks = np.stack([arm[_CLICKS][:, 1] for arm in moments])
    enough = np.flatnonzero((clicks >= plan.min_clicks).all(0))
    start = int(enough[0]) if len(enough) else None
    # Planned in clicks: what is known grows with them, whatever the metric.
    growth = 1.0
    if start is not None:
        growth = max(1.0, plan.planned_clicks / float(clicks[:, start].sum()))
    return {
        "first": names[0],
        "second": names[1],
        "first_look_us": None if start is None else times_us[start],
        "metrics": {
            metric: _metric(
                names,
                (moments[0][metric], moments[1][metric]),
                times_us,
                _Looks(plan.alpha, start, growth),
            )
            for metric in moments[0]
        },
    }


@dataclass(frozen=True, slots=True)
class _Looks:
    """From which look on the sequence holds, and for what growth it is tuned."""

    alpha: float
    start: int | None
    growth: float


def _metric(
    names: tuple[str, str],
    moments: tuple[np.ndarray, np.ndarray],
    times_us: Sequence[int],
    looks: _Looks,
) -> Figures:
    arms = [ratio_estimate(one) for one in moments]
    size = moments[0][:, 2] + moments[1][:, 2]
    gap, lift = difference(arms[0], arms[1]), log_ratio(arms[0], arms[1])
    last, last_lift = gap.at(-1), lift.at(-1)
    fixed = {
        "difference": _interval(last, fixed_radius(last, looks.alpha)),
        "lift": _lift(last_lift, fixed_radius(last_lift, looks.alpha)),
        "p_value": float(fixed_p_value(last)),
    }
    radius, p_value = _sequence(gap, size, looks)
    lift_radius, _ = _sequence(lift, size, looks)
    sure = np.flatnonzero(p_value <= looks.alpha)
    first_sure = int(sure[0]) if len(sure) else None
    return {
        "fixed": fixed,
        "always_valid": {
            "difference": _interval(last, radius[-1]),
            "lift": _lift(last_lift, lift_radius[-1]),
            "p_value": float(p_value[-1]),
            "better": None
            if first_sure is None
            else names[int(gap.value[first_sure] > 0)],
            "decided_us": None if first_sure is None else times_us[first_sure],
        },
        "curve": {
            "ts_us": list(times_us),
            "difference": gap.value,
            "low": gap.value - radius,
            "high": gap.value + radius,
            "p_value": p_value,
        },
    }


def _sequence(
    effect: Estimate, size: np.ndarray, looks: _Looks
) -> tuple[np.ndarray, np.ndarray]:
    """Return the radius [L] and the least p value so far [L]; NaN before the start."""
    radius, p_value = (np.full(len(size), np.nan) for _ in range(2))
    # Time does not run back, though its estimate may, a little.
    clock = np.fmax.accumulate(intrinsic_time(effect, size))
    if looks.start is None or not clock[looks.start] > 0:
        return radius, p_value
    scale = tuned_scale(looks.growth * float(clock[looks.start]), looks.alpha)
    now = slice(looks.start, None)
    later = Estimate(effect.value[now], effect.variance[now])
    radius[now] = always_valid_radius(later, clock[now], scale, looks.alpha)
    p_value[now] = np.fmin.accumulate(always_valid_p_value(later, clock[now], scale))
    return radius, p_value


def _interval(effect: Estimate, radius: np.ndarray) -> dict[str, float]:
    return {
        "value": float(effect.value),
        "low": float(effect.value - radius),
        "high": float(effect.value + radius),
    }


def _lift(effect: Estimate, radius: np.ndarray) -> dict[str, float]:
    """Return the relative lift with the interval of its logarithm."""
    return {
        name: float(np.expm1(value))
        for name, value in _interval(effect, radius).items()
    }
