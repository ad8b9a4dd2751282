"""How a calibration is fitted.

Apart from it, because replicas never fit one and need not spend a second on importing
what does.

N  impressions of a slice later than training
"""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import LinAlgWarning
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from cacs_ray.models.calibration import KNOTS, Calibration

# Fewer clicks than this cannot fix a slope; the intercept alone is fitted.
_CLICKS_FOR_SLOPE = 200
# Fewer than this fix nothing: the logits stay as they are.
_CLICKS_FOR_SHIFT = 20
# Standard deviations that shifts are expected to have, in logits, before any click.
_SHIFT_PRIOR = 0.15
_STANDOUT_PRIOR = 0.2
# A larger unit leaves the slope freer of the penalty that holds the shifts, and makes
# the problem harder to solve.
_SLOPE_UNIT = 30.0

Rows = Float[np.ndarray, " N"]


@dataclass(frozen=True, slots=True)
class Choices:
    """What the selector thinks of the rows that a calibration is fitted on."""

    standout: Rows
    """Score of the row's creative above the mean of its list."""
    is_chosen: Bool[np.ndarray, " N"]
    """It is the best of its list."""
    chosen_standout: float
    """Mean standout of the best creative over the lists of all rows."""


def fit_calibration(
    logits: Rows,
    clicks: Rows,
    weight: Rows,
    impressions: Rows | None = None,
    choices: Choices | None = None,
) -> Calibration:
    """Fit on a slice later than training.

    Args:
        logits: the ranker's logits with the slot of each row.
        clicks: 0 or 1.
        weight: impressions per row, >= 0.
        impressions: how often training had shown the row's creative; None
            fits no shifts.
        choices: what the selector thinks of the rows; the level becomes that of
            chosen creatives: the best of noisy scores may promise too much, or the
            selector know something that the ranker does not. None asks for all rows'.

    Returns:
        Slope, intercept and shifts; with under 200 clicks only the level is moved,
        with under 20 nothing is.

    A ranker that promises one click in two where one in ten comes is moved:

    >>> clicks = np.arange(1000) % 10 == 0
    >>> rows = np.zeros(1000), clicks.astype(np.float64), np.ones(1000)
    >>> fit_calibration(*rows).probability(np.zeros(1)).round(3).tolist()
    [0.1]
    """
    num_clicks = float((clicks * weight).sum())
    is_one_sided = num_clicks >= float(weight.sum())
    if num_clicks < _CLICKS_FOR_SHIFT or is_one_sided:
        return Calibration(num_clicks=num_clicks)
    level = Calibration(
        intercept=_level_shift(logits, clicks, weight), num_clicks=num_clicks
    )
    if num_clicks < _CLICKS_FOR_SLOPE:
        return level
    fitted = _fit_shifts(logits, clicks, weight, impressions)
    if fitted is None or fitted.slope <= 0:
        # Not solved, or a ranking upside down: keep the order, correct the level.
        return level
    fitted = fitted.model_copy(update={"num_clicks": num_clicks})
    if choices is None:
        return fitted
    shift = _shift_of_chosen(
        logit(fitted.probability(logits, impressions)), clicks, weight, choices
    )
    return fitted.model_copy(update={"intercept": fitted.intercept + shift})


def _fit_shifts(
    logits: Rows,
    clicks: Rows,
    weight: Rows,
    impressions: Rows | None,
) -> Calibration | None:
    """Return slope, level and shifts; None where the solver finds no optimum."""
    columns = [logits.astype(np.float64)[:, None] * _SLOPE_UNIT]
    if impressions is not None:
        columns.append(_SHIFT_PRIOR * _knot_shares(impressions))
    model = _logistic(np.hstack(columns), clicks, weight)
    if model is None:
        return None
    slope, *scaled = model.coef_[0].tolist()
    shifts = _SHIFT_PRIOR * np.array(scaled)
    # An ad whose creative is not known yet has the level of an average impression.
    mean = 0.0
    if impressions is not None:
        mean = float(np.average(_knot_shares(impressions) @ shifts, weights=weight))
    return Calibration(
        slope=slope * _SLOPE_UNIT,
        intercept=float(model.intercept_[0]) + mean,
        shifts=tuple((shifts - mean).tolist()),
    )


def _knot_shares(impressions: Rows) -> Float[np.ndarray, "N knots"]:
    """Return how much each row is of each knot; rows sum to 1."""
    at = np.log1p(KNOTS)
    places = np.eye(len(at))
    seen = np.log1p(impressions.astype(np.float64))
    return np.stack([np.interp(seen, at, one) for one in places], axis=1)


def _shift_of_chosen(
    calibrated: Rows, clicks: Rows, weight: Rows, choices: Choices
) -> float:
    """Return by how much the log-odds of chosen creatives are off.

    Only one row in several shows the choice, so its own clicks say little about a
    level. All rows say how clicks depend on the standout, and all lists how far the
    best stands out.
    """
    if not choices.is_chosen.any():
        return 0.0
    model = _logistic(
        np.column_stack([calibrated * _SLOPE_UNIT, choices.standout * _STANDOUT_PRIOR]),
        clicks,
        weight,
    )
    if model is None:
        return 0.0
    slope, of_standout = model.coef_[0].tolist()
    chosen = float(
        np.average(calibrated[choices.is_chosen], weights=weight[choices.is_chosen])
    )
    return (
        float(model.intercept_[0])
        + (slope * _SLOPE_UNIT - 1) * chosen
        + of_standout * _STANDOUT_PRIOR * choices.chosen_standout
    )


def _logistic(
    columns: Float[np.ndarray, "N X"], clicks: Rows, weight: Rows
) -> LogisticRegression | None:
    """Fit; None where the solver finds no optimum."""
    model = LogisticRegression(C=1.0, tol=1e-8, solver="newton-cholesky")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return model.fit(columns, clicks, sample_weight=weight)
    except (ConvergenceWarning, LinAlgWarning):
        return None


def _level_shift(logits: Rows, clicks: Rows, weight: Rows) -> float:
    """Shift of all logits after which predicted clicks equal clicks."""

    def missing_clicks(shift: float) -> float:
        return float((weight * (clicks - expit(logits + shift))).sum())

    return float(brentq(missing_clicks, -30.0, 30.0))
