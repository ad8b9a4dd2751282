"""Calibration of the serving ranker: logits -> click probabilities."""

from typing import Final, Literal

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from cacs_ray.config import Config

KNOTS: Final = (0.0, 3.0, 30.0, 300.0, 3000.0)
"""Impressions at which the shift is fitted; linear in log(1 + n) between."""


class Calibration(Config):
    """Platt scaling with a shift by how often the creative had been shown.

    p = sigmoid(slope x logit + intercept + shift(impressions)); the shift is linear in
    log(1 + impressions) between its knots. Between ads of one request the order
    changes only by what the shift says; for one creative a higher logit is always a
    higher probability.

    Source: Platt, "Probabilistic outputs for support vector machines", 1999; the
    shift is ours, see docs/decisions/0011-calibration-by-experience.md.
    """

    method: Literal["platt"] = "platt"
    slope: float = 1.0
    intercept: float = 0.0
    shifts: tuple[float, ...] = ()
    """Shift at 0, 3, 30, 300 and 3,000 impressions, 0 on average over the impressions
    it was fitted on; empty = none anywhere."""
    num_clicks: float = 0.0
    """Weighted clicks it was fitted on."""

    def probability(
        self,
        logits: Float[np.ndarray, "*S"],
        impressions: Float[np.ndarray, "*S"] | None = None,
    ) -> Float[np.ndarray, "*S"]:
        """Return calibrated probabilities, float64, same shape, in (0, 1).

        Args:
            logits: of any shape.
            impressions: of each creative as of the end of training, same shape; NaN
                or None where it is not known which creative: no shift then.

        >>> Calibration(intercept=-1.0).probability(np.array([1.0])).tolist()
        [0.5]
        """
        scaled = self.slope * logits.astype(np.float64) + self.intercept
        if impressions is not None and self.shifts:
            shift = np.interp(np.log1p(impressions), np.log1p(KNOTS), self.shifts)
            scaled = scaled + np.nan_to_num(shift, nan=0.0)
        return np.clip(expit(scaled), 1e-7, 1 - 1e-7)
