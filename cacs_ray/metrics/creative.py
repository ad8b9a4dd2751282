"""What a creative policy would have earned, by counting logged matches.

    N  impressions of a log

A policy enters by `match`: the probability with which it chooses the creative
that was shown - 1 or 0 for a policy without randomness. Both figures are unbiased
only under uniform logging inside the ad; otherwise see `metrics.off_policy`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped


def sctr(
    label: Shaped[np.ndarray, " N"],
    match: Float[np.ndarray, " N"],
    weight: Float[np.ndarray, " N"],
) -> float:
    r"""Simulated CTR of a policy.

    .. math:: \mathrm{sCTR} = \frac{\sum_i w_i m_i y_i}{\sum_i w_i m_i}

    Args:
        label: 1 or True for a click.
        match: P(policy chooses the shown creative), in [0, 1].
        weight: impressions per row, >= 0.

    Returns:
        A CTR in [0, 1]; NaN when nothing matches.

    >>> sctr(np.array([1, 0, 1]), np.array([1.0, 1.0, 0.0]), np.ones(3))
    0.5

    Source: Wang et al., "A Hybrid Bandit Model with Visual Priors for Creative
    Ranking in Display Advertising", WWW 2021, section 5.
    """
    mass = weight * match
    total = float(mass.sum())
    return float(mass @ label) / total if total > 0 else float("nan")


@dataclass(frozen=True, slots=True)
class Nsctr:
    """The per-ad normalised sCTR and how much of the log stands behind it."""

    value: float
    """A CTR; NaN when nothing matches."""
    coverage: float
    """Share of impressions whose ad has a match; the rest fell out."""


def nsctr(
    label: Shaped[np.ndarray, " N"],
    match: Float[np.ndarray, " N"],
    ad: Int[np.ndarray, " N"],
    weight: Float[np.ndarray, " N"],
) -> Nsctr:
    """Simulated CTR with every ad keeping its share of the traffic.

    Sum over ads of (matched clicks x the ad's impressions / its matched
    impressions), over all impressions: the form of sCTR that is post-stratified
    by ad. Ads without a match fall out of both sums.

    Args:
        label: 1 or True for a click.
        match: P(policy chooses the shown creative), in [0, 1].
        ad: number of the ad, >= 0.
        weight: impressions per row, >= 0.

    >>> label, match = np.array([1, 0, 0, 0]), np.array([1.0, 1.0, 1.0, 0.0])
    >>> nsctr(label, match, np.array([0, 0, 1, 1]), np.ones(4))
    Nsctr(value=0.25, coverage=1.0)

    Source: Yang et al., "Parallel Ranking of Ads and Creatives in Real-Time
    Advertising Systems", AAAI 2024, arXiv 2312.12750.
    """
    columns = nsctr_per_ad(label, match, ad, weight)
    total, covered = float(weight.sum()), float(columns[:, 1].sum())
    return Nsctr(
        value=float(columns[:, 0].sum()) / covered if covered > 0 else float("nan"),
        coverage=covered / total if total > 0 else float("nan"),
    )


def nsctr_per_ad(
    label: Shaped[np.ndarray, " N"],
    match: Float[np.ndarray, " N"],
    ad: Int[np.ndarray, " N"],
    weight: Float[np.ndarray, " N"],
) -> Float[np.ndarray, "ads 2"]:
    """Per ad: the clicks its traffic would give, and that traffic.

    NSCTR is the ratio of the two column sums; both are 0 for an ad without a match.

    Args:
        label: 1 or True for a click.
        match: P(policy chooses the shown creative), in [0, 1].
        ad: number of the ad, >= 0.
        weight: impressions per row, >= 0.

    >>> label, match = np.array([1, 0, 0]), np.array([1.0, 0.0, 0.0])
    >>> nsctr_per_ad(label, match, np.array([0, 0, 1]), np.ones(3))
    array([[2., 2.],
           [0., 0.]])
    """
    size = int(ad.max(initial=-1)) + 1
    matched = np.bincount(ad, weight * match, minlength=size)
    clicks = np.bincount(ad, weight * match * label, minlength=size)
    shown = np.bincount(ad, weight, minlength=size)
    has_match = matched > 0
    rate = np.divide(clicks, matched, out=np.zeros(size), where=has_match)
    return np.stack([rate * shown, np.where(has_match, shown, 0.0)], axis=1)


def normalised_gain(value: float, random: float, oracle: float) -> float:
    """Where a value lies between random choice (0) and the oracle (1).

    NaN when the oracle is no better than random choice.

    >>> normalised_gain(3.0, random=2.0, oracle=4.0)
    0.5
    """
    if not oracle > random:
        return float("nan")
    return (value - random) / (oracle - random)
