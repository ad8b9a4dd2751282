"""What evaluation looks at: a test window with the scores of one bundle.

    N  impressions     C  creatives per list, padded     K  creatives

Plain arrays, so that every figure is a pure function of them. Creatives are rows
of the catalogue; row 0 is blank and marks padding.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from cacs_ray.errors import InputError

BUCKETS: Final = ("0", "1-10", "11-100", "101-1000", "1001+")
"""How often a creative had been shown when training ended."""

_SAME_SCORE: Final = 1e-6
"""Relative; float32 sums of the same numbers differ by less."""

_BUCKET_EDGES: Final = (0, 10, 100, 1000)


@dataclass(frozen=True, slots=True)
class ScoredLog:
    """Logged impressions, each with its list and what the models say about it."""

    lists: np.ndarray
    """int32 [N, C]: catalogue rows, left-aligned, 0 = padding."""
    shown_index: np.ndarray
    """int [N]: column of the shown creative in its list."""
    label: np.ndarray
    """[N]: 1 or True for a click."""
    weight: np.ndarray
    """float [N]: impressions that a row stands for, > 0."""
    propensity: np.ndarray
    """float [N]: P(shown creative | ad, request) of the logging policy; NaN = not
    logged, then uniform logging is assumed."""
    ad_row: np.ndarray
    """int [N]: number of the ad, >= 0."""
    user_row: np.ndarray
    """int [N]: number of the user, 0 = unknown."""
    request_row: np.ndarray
    """int [N]: number of the request (page view), >= 0."""
    selector_scores: np.ndarray
    """float [N, C]: the student; padding may hold anything."""
    clicks: np.ndarray
    """float [K + 1]: clicks of each catalogue row as of the end of training."""
    impressions: np.ndarray
    """float [K + 1]: impressions likewise."""
    prior: tuple[float, float]
    """(alpha, beta) > 0 of a creative's CTR, fitted on training."""
    teacher_scores: np.ndarray | None = None
    """float [N, C]: the teacher's logits."""
    pctr: np.ndarray | None = None
    """float [N, C]: calibrated click probability of every creative in the row's
    slot, from the serving ranker."""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def mask(self) -> np.ndarray:
        """Return bool [N, C]: True for a real creative."""
        real: np.ndarray = self.lists > 0
        return real

    @property
    def logged_propensity(self) -> np.ndarray:
        """Return float64 [N]: as logged, 1 / list length where it is unknown."""
        propensity = self.propensity.astype(np.float64)
        uniform = 1.0 / np.maximum(self.mask.sum(1), 1)
        return np.where(np.isnan(propensity), uniform, propensity)

    @property
    def buckets(self) -> np.ndarray:
        """Return int64 [N, C]: number in `BUCKETS` of each creative."""
        bucket: np.ndarray = bucket_of(self.impressions)[self.lists]
        return bucket

    @property
    def has_choice(self) -> np.ndarray:
        """Return bool [N]: the list holds creatives that the selector tells apart.

        Arms of a test that differ in nothing known get one score; which of them is
        shown is then chance, for every policy of content.
        """
        scores, mask = self.selector_scores.astype(np.float64), self.mask
        highest = np.where(mask, scores, -np.inf).max(1)
        lowest = np.where(mask, scores, np.inf).min(1)
        scale = np.maximum(np.abs(highest), np.abs(lowest))
        is_apart: np.ndarray = highest - lowest > _SAME_SCORE * np.maximum(scale, 1.0)
        return is_apart

    def shown(self, values: np.ndarray) -> np.ndarray:
        """Take the value of the shown creative from each list of [N, C]."""
        return take_column(values, self.shown_index)

    def check(self) -> None:
        """Refuse a log that cannot be evaluated.

        Raises:
            InputError: it has no rows.
            ValueError: an array has another length, a list is empty, or a score
                of a real creative is not finite; the array is named.
        """
        if len(self) == 0:
            raise InputError(
                "the test window holds no impressions", rule="empty_window"
            )
        for name in ("shown_index", "weight", "propensity", "ad_row", "request_row"):
            if getattr(self, name).shape != (len(self),):
                raise ValueError(f"{name}: expected {len(self)} values")
        if not self.shown(self.mask).all():
            raise ValueError("shown_index: points at padding")
        for name in ("selector_scores", "teacher_scores", "pctr"):
            if getattr(self, name) is not None:
                self._check_scores(name)

    def _check_scores(self, name: str) -> None:
        scores = getattr(self, name)
        if scores.shape != self.lists.shape:
            raise ValueError(f"{name}: expected shape {self.lists.shape}")
        if not np.isfinite(scores[self.mask]).all():
            raise ValueError(f"{name}: a score of a real creative is not finite")


def bucket_of(impressions: np.ndarray) -> np.ndarray:
    """Return the number in `BUCKETS` of each count of impressions.

    >>> bucket_of(np.array([0, 10, 11])).tolist()
    [0, 1, 2]
    """
    return np.searchsorted(_BUCKET_EDGES, impressions, side="left")


def rare_ads(log: ScoredLog) -> np.ndarray:
    """Tell which rows' ads are in the half of ads that training saw less of, [N].

    Shown counts of an ad are those of the creatives in its largest list.
    """
    seen = np.where(log.mask, log.impressions[log.lists], 0.0).sum(1)
    of_ad = np.zeros(int(log.ad_row.max()) + 1)
    np.maximum.at(of_ad, log.ad_row, seen)
    is_rare: np.ndarray = of_ad <= np.median(of_ad[np.unique(log.ad_row)])
    return is_rare[log.ad_row]


def take_column(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Take one column per row: values[i, index[i]]."""
    taken: np.ndarray = values[np.arange(len(values)), index]
    return taken
