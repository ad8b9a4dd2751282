"""Calibration of the serving ranker: logits -> click probabilities."""

from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from cacs_ray.config import Config

# Fewer clicks than this cannot fix a slope; the intercept alone is fitted.
_CLICKS_FOR_SLOPE = 200
# Fewer than this fix nothing: the logits stay as they are.
_CLICKS_FOR_SHIFT = 20


class Calibration(Config):
    """Platt scaling: p = sigmoid(slope x logit + intercept).

    Source: Platt, "Probabilistic outputs for support vector machines", 1999.
    """

    method: Literal["platt"] = "platt"
    slope: float = 1.0
    intercept: float = 0.0
    num_clicks: float = 0.0
    """Weighted clicks it was fitted on."""

    def probability(self, logits: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities, float64, same shape, in (0, 1).

        >>> Calibration(intercept=-1.0).probability(np.array([1.0])).tolist()
        [0.5]
        """
        scaled = self.slope * logits.astype(np.float64) + self.intercept
        return np.clip(expit(scaled), 1e-7, 1 - 1e-7)


def fit_calibration(
    logits: np.ndarray, clicks: np.ndarray, weight: np.ndarray
) -> Calibration:
    """Fit Platt scaling on a slice later than training.

    Args:
        logits: float [N], the ranker's logits with the slot of each row.
        clicks: float [N], 0 or 1.
        weight: float [N], impressions per row.

    Returns:
        Slope and intercept; with under 200 clicks only the level is moved, with
        under 20 nothing is.
    """
    num_clicks = float((clicks * weight).sum())
    is_one_sided = num_clicks >= float(weight.sum())
    if num_clicks < _CLICKS_FOR_SHIFT or is_one_sided:
        return Calibration(num_clicks=num_clicks)
    if num_clicks < _CLICKS_FOR_SLOPE:
        return Calibration(
            intercept=_level_shift(logits, clicks, weight), num_clicks=num_clicks
        )
    model = LogisticRegression(C=np.inf, tol=1e-8)
    model.fit(logits[:, None].astype(np.float64), clicks, sample_weight=weight)
    slope = float(model.coef_[0, 0])
    if slope <= 0:  # ranking upside down: keep the order, correct the level
        return Calibration(
            intercept=_level_shift(logits, clicks, weight), num_clicks=num_clicks
        )
    return Calibration(
        slope=slope, intercept=float(model.intercept_[0]), num_clicks=num_clicks
    )


def _level_shift(logits: np.ndarray, clicks: np.ndarray, weight: np.ndarray) -> float:
    """Shift of all logits after which predicted clicks equal clicks."""

    def missing_clicks(shift: float) -> float:
        return float((weight * (clicks - expit(logits + shift))).sum())

    return float(brentq(missing_clicks, -30.0, 30.0))
