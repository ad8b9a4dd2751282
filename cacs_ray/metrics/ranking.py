"""How well a click probability orders and how honest its level is.

    N  impressions; `weight` says how many impressions a row stands for

A figure that the rows cannot give (one class only, no rows) is NaN, never a guess.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from sklearn import metrics as sklearn_metrics

Rows = Float[np.ndarray, " N"]


def auc(
    label: Shaped[np.ndarray, " N"], score: Rows, weight: Rows | None = None
) -> float:
    """Chance that a clicked impression scores above one that was not clicked.

    Ties count one half. Only the order of `score` matters.

    Args:
        label: 1 or True for a click.
        score: any real numbers.
        weight: impressions per row, >= 0; None = 1 each.

    Returns:
        A number in [0, 1]; NaN when only one class carries weight.

    >>> auc(np.array([0, 1, 1]), np.array([0.2, 0.1, 0.9]))
    0.5
    """
    label, weight = _clean(label, weight)
    clicks = float(weight @ label)
    if clicks <= 0 or float(weight @ (1 - label)) <= 0:
        return float("nan")
    value = sklearn_metrics.roc_auc_score(label, score, sample_weight=weight)
    return float(value)


def gauc(
    label: Shaped[np.ndarray, " N"],
    score: Rows,
    group: Int[np.ndarray, " N"],
    weight: Rows | None = None,
) -> float:
    """Impression-weighted mean of the AUC inside each group.

    Groups without both classes have no AUC and fall out of both sums; name the
    group where the figure is printed (`gauc_user`, `gauc_request`).

    Args:
        label: 1 or True for a click.
        score: any real numbers.
        group: number of the group; rows of a negative group are left out.
        weight: impressions per row, >= 0; None = 1 each.

    Returns:
        A number in [0, 1]; NaN when no group holds both classes.

    >>> gauc(np.array([0, 1, 1, 0]), np.array([0.1, 0.2, 0.3, 0.4]),
    ...      np.array([0, 0, 1, 1]))
    0.5
    """
    label, weight = _clean(label, weight)
    kept = group >= 0
    if not kept.any():
        return float("nan")
    label, weight, score = label[kept], weight[kept], score[kept]
    _, group = np.unique(group[kept], return_inverse=True)
    order = np.lexsort((score, group))
    label, weight, score, group = (a[order] for a in (label, weight, score, group))

    # Rows that tie inside one group share a number.
    starts = np.append(True, (np.diff(group) != 0) | (np.diff(score) != 0))
    tie = np.cumsum(starts) - 1
    tie_group = group[starts]
    clicked = np.bincount(tie, weight * label)
    missed = np.bincount(tie, weight * (1 - label))
    below = np.cumsum(missed) - missed
    first = np.searchsorted(tie_group, np.arange(tie_group[-1] + 1))
    wins = np.bincount(
        tie_group, clicked * (below - below[first][tie_group] + missed / 2)
    )

    clicks, misses = np.bincount(tie_group, clicked), np.bincount(tie_group, missed)
    has_both = (clicks > 0) & (misses > 0)
    if not has_both.any():
        return float("nan")
    value = wins[has_both] / (clicks * misses)[has_both]
    return float(np.average(value, weights=(clicks + misses)[has_both]))


def log_loss(
    label: Shaped[np.ndarray, " N"], predicted: Rows, weight: Rows | None = None
) -> float:
    """Mean of -log P(what happened) in nats; NaN without rows.

    >>> round(log_loss(np.array([1, 0]), np.array([0.5, 0.5])), 4)
    0.6931
    """
    label, weight = _clean(label, weight)
    if weight.sum() <= 0:
        return float("nan")
    predicted = np.asarray(predicted, np.float64)
    value = sklearn_metrics.log_loss(
        label, predicted, sample_weight=weight, labels=[0, 1]
    )
    return float(value)


def normalised_entropy(
    label: Shaped[np.ndarray, " N"], predicted: Rows, weight: Rows | None = None
) -> float:
    """Log loss over the log loss of always predicting the mean CTR.

    Below 1 is better than knowing the mean alone; NaN when only one class carries
    weight.

    Source: He et al., "Practical Lessons from Predicting Clicks on Ads at
    Facebook", ADKDD 2014, section 2.

    >>> normalised_entropy(np.array([1, 0]), np.array([0.5, 0.5]))
    1.0
    """
    label, weight = _clean(label, weight)
    mean = float(weight @ label) / max(float(weight.sum()), np.finfo(float).tiny)
    if not 0 < mean < 1:
        return float("nan")
    entropy = -(mean * np.log(mean) + (1 - mean) * np.log(1 - mean))
    return log_loss(label, predicted, weight) / float(entropy)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Predicted against observed CTR, overall and in bins of equal mass."""

    ratio: float
    """Predicted clicks / clicks; 1 is honest, above 1 promises too much."""
    ece: float
    """Expected calibration error: mean |predicted - observed CTR| over bins."""
    clicks: float
    """Clicks behind it, weighted."""
    bin_predicted: Float[np.ndarray, " bins"]
    """Mean prediction of each bin that holds rows, rising."""
    bin_observed: Float[np.ndarray, " bins"]
    """CTR of the same bins."""
    bin_weight: Float[np.ndarray, " bins"]
    """Impressions of the same bins."""


def calibration(
    label: Shaped[np.ndarray, " N"],
    predicted: Rows,
    weight: Rows | None = None,
    *,
    num_bins: int = 10,
) -> Calibration:
    """Compare predicted with observed CTR.

    Bins hold about equal weight; equal predictions are never split, so the order
    of the rows has no say.

    Args:
        label: 1 or True for a click.
        predicted: click probabilities in [0, 1].
        weight: impressions per row, >= 0; None = 1 each.
        num_bins: bins of equal mass, >= 1.

    Returns:
        Ratio (NaN without clicks), ECE (NaN without rows) and the bins.

    >>> calibration(np.array([1, 0]), np.array([0.6, 0.6])).ratio
    1.2
    """
    label, weight = _clean(label, weight)
    predicted = np.asarray(predicted, np.float64)
    total, clicks = float(weight.sum()), float(weight @ label)
    if total <= 0:
        nan, none = float("nan"), np.zeros(0)
        return Calibration(nan, nan, 0.0, none, none, none)

    values, index = np.unique(predicted, return_inverse=True)
    mass = np.bincount(index, weight, minlength=len(values))
    middle = (np.cumsum(mass) - mass / 2) / total
    bins = np.minimum((middle * num_bins).astype(np.int64), num_bins - 1)[index]
    bin_weight = np.bincount(bins, weight, minlength=num_bins)
    filled = bin_weight > 0
    bin_weight = bin_weight[filled]
    sums = (
        np.bincount(bins, weight * column, minlength=num_bins)[filled]
        for column in (predicted, label)
    )
    bin_predicted, bin_observed = (column / bin_weight for column in sums)
    return Calibration(
        ratio=float(weight @ predicted) / clicks if clicks > 0 else float("nan"),
        ece=float(bin_weight @ np.abs(bin_predicted - bin_observed)) / total,
        clicks=clicks,
        bin_predicted=bin_predicted,
        bin_observed=bin_observed,
        bin_weight=bin_weight,
    )


def _clean(label: Shaped[np.ndarray, " N"], weight: Rows | None) -> tuple[Rows, Rows]:
    """Return labels and weights as float64; weights default to one."""
    label = np.asarray(label, np.float64)
    if weight is None:
        return label, np.ones_like(label)
    return label, np.asarray(weight, np.float64)
