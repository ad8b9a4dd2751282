"""Confidence intervals by resampling whole clusters (ads, requests, tests).

    K  clusters     S  sums kept per cluster     M  figures made of the sums

Rows of one ad or request are not independent, so clusters are drawn, never rows.
All figures come from one set of draws: a difference or a ratio of two policies is
therefore a paired comparison.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import special

Statistic = Callable[[np.ndarray], np.ndarray]
"""Sums [..., S] -> figures [..., M]; must accept any leading axes."""

_DRAWS_AT_ONCE = 5_000_000
"""Cluster draws held at once; bounds memory to some hundred megabytes."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """M figures with two-sided intervals; NaN bounds where nothing can be said."""

    value: Float[np.ndarray, " M"]
    low: Float[np.ndarray, " M"]
    high: Float[np.ndarray, " M"]

    def as_dicts(self) -> list[dict[str, float]]:
        """Return `value`, `low` and `high` of each figure as plain numbers."""
        return [
            {"value": float(value), "low": float(low), "high": float(high)}
            for value, low, high in zip(self.value, self.low, self.high, strict=True)
        ]


def sum_by_cluster(
    columns: Float[np.ndarray, "N S"],
    cluster: Int[np.ndarray, " N"],
    *,
    size: int | None = None,
) -> Float[np.ndarray, "K S"]:
    """Sum rows by cluster number; clusters are 0 .. size-1, by default 0 .. max.

    >>> sum_by_cluster(np.array([[1.0], [2.0], [4.0]]), np.array([0, 1, 0]))
    array([[5.],
           [2.]])
    """
    size = int(cluster.max(initial=-1)) + 1 if size is None else size
    sums = [np.bincount(cluster, column, minlength=size) for column in columns.T]
    return np.stack(sums, axis=1) if sums else np.zeros((size, 0))


def pool_clusters(
    cluster: Int[np.ndarray, " N"], *, limit: int = 4000, seed: int = 0
) -> Int[np.ndarray, " N"]:
    """Number clusters 0 .. K-1; more than `limit` are thrown together at random.

    Groups of independent clusters are independent again, so intervals keep their
    meaning, while the bootstrap of a log with a million requests stays cheap.

    >>> pool_clusters(np.array([7, 9, 7])).tolist()
    [0, 1, 0]
    """
    distinct, number = np.unique(cluster, return_inverse=True)
    if len(distinct) <= limit:
        return number
    pooled = np.random.default_rng(seed).permutation(len(distinct)) % limit
    pooled_rows: np.ndarray = pooled[number]
    return pooled_rows


def cluster_bootstrap(
    sums: Float[np.ndarray, "K S"],
    statistic: Statistic,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Bias-corrected and accelerated (BCa) bootstrap over clusters.

    Args:
        sums: what each cluster adds to the totals.
        statistic: figures as a function of the totals, see `Statistic`; it may
            return NaN, such replicates are left out of their figure's interval.
        replicates: bootstrap samples.
        level: probability that the interval should hold the truth.
        seed: equal seeds give equal intervals.

    Returns:
        The figures of the totals with their intervals. Bounds are NaN with fewer
        than two clusters or when more than a tenth of the replicates is NaN.

    >>> clicks_and_shows = np.array([[1.0, 10.0], [3.0, 10.0], [2.0, 10.0]])
    >>> ctr = cluster_bootstrap(clicks_and_shows, lambda t: t[..., :1] / t[..., 1:])
    >>> ctr.value, bool(ctr.low[0] >= 0.1), bool(ctr.high[0] <= 0.3)
    (array([0.2]), True, True)

    Source: Efron, "Better Bootstrap Confidence Intervals", JASA 1987.
    """
    totals = sums.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = statistic(totals)
        if len(sums) < 2:
            nothing = np.full(value.shape, np.nan)
            return Intervals(value, nothing, nothing.copy())
        samples = statistic(_resampled_totals(sums, replicates, seed))
        left_out = statistic(totals - sums)
    bounds = [
        _bca(samples[:, m], float(value[m]), left_out[:, m], level)
        for m in range(len(value))
    ]
    low, high = np.array(bounds, np.float64).reshape(-1, 2).T
    return Intervals(value, low, high)


def ratio_intervals(
    sums: Float[np.ndarray, "K 2"],
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Interval of one ratio: sum of the first column over sum of the second.

    Args:
        sums: numerator and denominator of each cluster.
        replicates: bootstrap samples.
        level: probability that the interval should hold the truth.
        seed: equal seeds give equal intervals.

    >>> ratio_intervals(np.array([[1.0, 4.0], [2.0, 8.0]])).as_dicts()
    [{'value': 0.25, 'low': 0.25, 'high': 0.25}]
    """
    return cluster_bootstrap(
        sums,
        lambda totals: totals[..., :1] / totals[..., 1:],
        replicates=replicates,
        level=level,
        seed=seed,
    )


def _resampled_totals(
    sums: Float[np.ndarray, "K S"], replicates: int, seed: int
) -> Float[np.ndarray, "B S"]:
    """Totals of bootstrap samples of K clusters drawn with replacement."""
    rng = np.random.default_rng(seed)
    size = len(sums)
    blocks = []
    at_once = max(1, _DRAWS_AT_ONCE // size)
    for start in range(0, replicates, at_once):
        count = min(at_once, replicates - start)
        drawn = rng.integers(0, size, (count, size))
        drawn += np.arange(count)[:, None] * size
        times = np.bincount(drawn.ravel(), minlength=count * size)
        blocks.append(times.reshape(count, size).astype(np.float64) @ sums)
    return np.concatenate(blocks)


def _bca(
    samples: Float[np.ndarray, " B"],
    value: float,
    left_out: Float[np.ndarray, " K"],
    level: float,
) -> tuple[float, float]:
    """Bounds of one figure from its replicates and leave-one-cluster-out values."""
    is_known = np.isfinite(samples)
    if not np.isfinite(value) or is_known.mean() < 0.9:
        return float("nan"), float("nan")
    samples, left_out = samples[is_known], left_out[np.isfinite(left_out)]
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if np.ptp(samples) == 0:
        return value, value
    below = (np.mean(samples < value) + np.mean(samples <= value)) / 2
    edge = 0.5 / len(samples)
    bias = special.ndtri(np.clip(below, edge, 1 - edge))
    pull = left_out.mean() - left_out
    spread = float((pull**2).sum()) ** 1.5
    acceleration = float((pull**3).sum()) / (6 * spread) if spread > 0 else 0.0
    z = bias + special.ndtri(tails)
    # Few clusters can push the acceleration so far that the formula turns over.
    shifted = special.ndtr(bias + z / np.maximum(1 - acceleration * z, 0.1))
    low, high = np.quantile(samples, shifted)
    return float(low), float(high)
