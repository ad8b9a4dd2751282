r"""What impressions and clicks say of each creative, by a rule that anyone can check.

    K  creatives, of any number of ads     2  impressions and clicks, in this order

Intervals treat impressions as independent. The rule in words: `docs/evidence.md`.
"""

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

State = Literal["learning", "better", "worse", "fatigued"]
STATES: Final[tuple[State, ...]] = get_args(State)


@dataclass(frozen=True, slots=True)
class Bounds:
    """A value per creative with its interval; NaN where nothing is known."""

    value: Float[np.ndarray, " K"]
    low: Float[np.ndarray, " K"]
    high: Float[np.ndarray, " K"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of each creative."""

    ctr: Bounds
    """Its own."""
    difference: Bounds
    """Its CTR less that of the other creatives of its ad, corrected interval."""
    change: Bounds
    """Its recent CTR less its own earlier one, corrected interval."""
    state: tuple[State, ...]


def wilson_interval(
    counts: Float[np.ndarray, "K 2"], alpha: Float[np.ndarray, " K"] | float
) -> Bounds:
    r"""Return CTRs with score intervals at level 1 - alpha.

    .. math:: \frac{p + \frac{z^2}{2n} \pm z\sqrt{\frac{p(1-p)}{n} +
        \frac{z^2}{4n^2}}}{1 + \frac{z^2}{n}}

    >>> one = wilson_interval(np.array([[10.0, 0.0]]), 0.05)
    >>> float(one.low[0]), float(one.high[0].round(3))
    (0.0, 0.278)

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical
    Inference", JASA 1927.
    """
    shown, clicks = counts.T
    z = -special.ndtri(np.asarray(alpha) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = clicks / shown
        middle = (p + z**2 / (2 * shown)) / (1 + z**2 / shown)
        spread = z * np.sqrt(p * (1 - p) / shown + z**2 / (4 * shown**2))
        radius = spread / (1 + z**2 / shown)
    # Rounding must not leave a bound on the wrong side of 0 or 1.
    return Bounds(
        p,
        np.where(clicks == 0, 0.0 * p, middle - radius),
        np.where(clicks == shown, 0.0 * p + 1.0, middle + radius),
    )


def newcombe_difference(
    first: Float[np.ndarray, "K 2"],
    second: Float[np.ndarray, "K 2"],
    alpha: Float[np.ndarray, " K"] | float,
) -> Bounds:
    """Return CTR of `first` less that of `second`, with hybrid score intervals.

    Holds its level also with few clicks or none, where the textbook's normal
    interval has no width.

    >>> none, all_of_ten = np.array([[10.0, 0.0]]), np.array([[10.0, 10.0]])
    >>> gap = newcombe_difference(none, all_of_ten, 0.05)
    >>> float(gap.value[0]), float(gap.low[0]), float(gap.high[0].round(2))
    (-1.0, -1.0, -0.61)

    Source: Newcombe, "Interval estimation for the difference between independent
    proportions", Statistics in Medicine 1998, method 10.
    """
    one, two = wilson_interval(first, alpha), wilson_interval(second, alpha)
    gap = one.value - two.value
    below = np.hypot(one.value - one.low, two.high - two.value)
    above = np.hypot(one.high - one.value, two.value - two.low)
    return Bounds(gap, gap - below, gap + above)


def judge_creatives(
    ad: Int[np.ndarray, " K"],
    earlier: Float[np.ndarray, "K 2"],
    recent: Float[np.ndarray, "K 2"],
    *,
    alpha: float = 0.05,
    min_impressions: float = 100.0,
) -> Evidence:
    """Say of each creative how it does against its ad and against its own past.

    The first that holds, intervals Bonferroni-corrected by the shown creatives of
    the ad, each side of a comparison with `min_impressions` or more:

    - `fatigued`: recent CTR is lower than its own earlier one, and it was not
      `worse` on the earlier counts;
    - `worse`, `better`: all its counts against those of the ad's other creatives;
    - `learning`: too little evidence to tell.

    Args:
        ad: number of each creative's ad, >= 0.
        earlier: impressions and clicks before the recent window.
        recent: those of the recent window.
        alpha: probability that anything is wrongly said of an ad, for each of the
            two questions.
        min_impressions: least evidence on each side.

    Returns:
        One row per creative; the difference is NaN where an ad has no other
        creative that was shown.

    >>> shown = np.array([[1000.0, 100.0], [1000.0, 20.0]])
    >>> judge_creatives(np.array([0, 0]), np.zeros((2, 2)), shown).state
    ('better', 'worse')
    """
    total = earlier + recent
    rest, share = _rest(ad, total), _comparison_alpha(ad, total, alpha)
    difference = newcombe_difference(total, rest, share)
    low, high = difference.low, difference.high
    enough = _enough(min_impressions, total, rest)
    rest_before = _rest(ad, earlier)
    before = newcombe_difference(
        earlier, rest_before, _comparison_alpha(ad, earlier, alpha)
    )
    was_worse = (before.high < 0) & _enough(min_impressions, earlier, rest_before)
    change = newcombe_difference(recent, earlier, alpha / _shown_creatives(ad, total))
    is_fatigued = (change.high < 0) & _enough(min_impressions, earlier, recent)
    number = np.select(
        [is_fatigued & ~was_worse, enough & (high < 0), enough & (low > 0)],
        [STATES.index("fatigued"), STATES.index("worse"), STATES.index("better")],
        STATES.index("learning"),
    )
    return Evidence(
        ctr=wilson_interval(total, alpha),
        difference=difference,
        change=change,
        state=tuple(STATES[one] for one in number),
    )


def _rest(
    ad: Int[np.ndarray, " K"], counts: Float[np.ndarray, "K 2"]
) -> Float[np.ndarray, "K 2"]:
    """Counts of the ad's other creatives."""
    of_ad = [np.bincount(ad, column)[ad] for column in counts.T]
    return np.stack(of_ad, axis=1) - counts


def _shown_creatives(
    ad: Int[np.ndarray, " K"], counts: Float[np.ndarray, "K 2"]
) -> Float[np.ndarray, " K"]:
    """How many creatives of the ad were shown, 1 at least."""
    shown = np.bincount(ad, counts[:, 0] > 0)[ad]
    return np.maximum(shown, 1.0)


def _comparison_alpha(
    ad: Int[np.ndarray, " K"], counts: Float[np.ndarray, "K 2"], alpha: float
) -> Float[np.ndarray, " K"]:
    """Alpha of one comparison; between two creatives there is only one."""
    shown = _shown_creatives(ad, counts)
    return np.where(shown > 2, alpha / shown, alpha)


def _enough(
    least: float, first: Float[np.ndarray, "K 2"], second: Float[np.ndarray, "K 2"]
) -> Bool[np.ndarray, " K"]:
    return (first[:, 0] >= least) & (second[:, 0] >= least)
