r"""Ratios of two arms of a test, compared once or as often as one likes.

    U  units (users)     M = 6  moments of the units of one arm, see `ratio_moments`

A unit adds a numerator (clicks) and a denominator (impressions) to its arm; rows of
one unit are not independent, so variances are those of units (delta method).
`*axes` stands for any leading axes, such as looks or arms. Fixed-horizon answers
hold for one look, planned in advance; always-valid ones for every look together.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special, stats


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimates with the variance of their error; NaN where nothing is known."""

    value: Float[np.ndarray, "*axes"]
    variance: Float[np.ndarray, "*axes"]

    def at(self, look: int) -> "Estimate":
        """Return those of one place along the first axis."""
        return Estimate(np.asarray(self.value[look]), np.asarray(self.variance[look]))


def ratio_moments(sums: Float[np.ndarray, "U 2"]) -> Float[np.ndarray, "6"]:
    """Return what the ratio of an arm needs to know of its units.

    Args:
        sums: numerator y and denominator x of each unit.

    Returns:
        How many units, and the sums of y, x, y*y, x*y and x*x over them.

    >>> ratio_moments(np.array([[1.0, 4.0], [0.0, 2.0]]))
    array([ 2.,  1.,  6.,  1.,  4., 20.])
    """
    y, x = sums.T
    return np.array([len(sums), y.sum(), x.sum(), y @ y, x @ y, x @ x])


def ratio_estimate(moments: Float[np.ndarray, "*axes 6"]) -> Estimate:
    r"""Estimate the ratio of totals, its variance by the delta method over units.

    .. math:: r = \frac{\sum_u y_u}{\sum_u x_u}, \qquad
        \operatorname{Var} r = \frac{\sum_u (y_u - r x_u)^2}{(\sum_u x_u)^2}
        \cdot \frac{U}{U - 1}

    Returns:
        The ratios; the variance is NaN with fewer than two units, both are NaN
        without a denominator.

    >>> one = ratio_estimate(ratio_moments(np.array([[1.0, 2.0], [0.0, 2.0]])))
    >>> float(one.value), float(one.variance)
    (0.25, 0.0625)

    Source: Deng, Knoblich, Lu, "Applying the Delta Method in Metric Analytics",
    KDD 2018, section 3.1.
    """
    units, y, x, yy, xy, xx = np.moveaxis(moments, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = y / x
        # Rounding may leave a tiny negative where every unit has the same ratio.
        residuals = np.maximum(yy - 2 * value * xy + value**2 * xx, 0.0)
        variance = residuals / x**2 * (units / (units - 1))
    return Estimate(np.asarray(value), np.where(units > 1, variance, np.nan))


def difference(first: Estimate, second: Estimate) -> Estimate:
    """Estimate second - first of two independent arms.

    >>> arms = Estimate(*[np.array(0.5)] * 2), Estimate(*[np.array(0.75)] * 2)
    >>> difference(*arms)
    Estimate(value=array(0.25), variance=array(1.25))
    """
    return Estimate(
        np.asarray(second.value - first.value),
        np.asarray(first.variance + second.variance),
    )


def log_ratio(first: Estimate, second: Estimate) -> Estimate:
    """Estimate log(second / first) of two independent arms, positive ratios.

    `expm1` of it and of its bounds is the relative lift. NaN where a ratio is 0.

    >>> arms = Estimate(np.array(0.1), np.array(1e-4)), Estimate(*[np.array(0.2)] * 2)
    >>> round(float(np.expm1(log_ratio(*arms).value)), 6)
    1.0
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.log(second.value) - np.log(first.value)
        variance = first.variance / first.value**2 + second.variance / second.value**2
    is_known = np.isfinite(value)
    return Estimate(
        np.where(is_known, value, np.nan), np.where(is_known, variance, np.nan)
    )


def fixed_p_value(effect: Estimate) -> Float[np.ndarray, "*axes"]:
    """Return the two-sided p value of no effect, for one look planned in advance.

    >>> float(fixed_p_value(Estimate(np.array(1.96), np.array(1.0))).round(3))
    0.05
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.abs(effect.value) / np.sqrt(effect.variance)
    return np.asarray(2 * special.ndtr(-z))


def fixed_radius(effect: Estimate, alpha: float) -> Float[np.ndarray, "*axes"]:
    """Return half the width of the 1 - alpha interval of one planned look.

    >>> float(fixed_radius(Estimate(np.array(0.1), np.array(1.0)), 0.05).round(2))
    1.96
    """
    return np.asarray(special.ndtri(1 - alpha / 2) * np.sqrt(effect.variance))


def intrinsic_time(
    effect: Estimate, size: Float[np.ndarray, "*axes"]
) -> Float[np.ndarray, "*axes"]:
    r"""Return the variance of the sum behind the mean: :math:`v = x^2 \cdot Var`.

    It is the clock of the always-valid test. Unlike the number of users, it goes on
    when known users come back; and when what a user does at different times is
    alike, later looks are more alike than this clock says, which errs on the safe
    side.

    Args:
        effect: at each look.
        size: all that the denominators add up to at each look, of both arms.

    >>> effect = Estimate(np.array(0.1), np.array(0.5))
    >>> float(intrinsic_time(effect, np.array(4.0)))
    8.0
    """
    return np.asarray(effect.variance * np.square(size))


def tuned_scale(intrinsic: float, alpha: float) -> float:
    r"""Return the scale with which the sequence is narrow at one intrinsic time.

    .. math:: \rho^2 = \frac{-2\log\alpha + \log(1 - 2\log\alpha)}{v}

    It must not be chosen by looking at effects; a wrong guess only widens.

    >>> round(tuned_scale(2.0, 0.05), 2)
    3.97

    Source: as of `always_valid_radius`.
    """
    spent = -2 * np.log(alpha)
    return float((spent + np.log1p(spent)) / intrinsic)


def always_valid_radius(
    effect: Estimate,
    intrinsic: Float[np.ndarray, "*axes"],
    scale: float,
    alpha: float,
) -> Float[np.ndarray, "*axes"]:
    r"""Return half the width of an asymptotic confidence sequence.

    .. math:: \sqrt{\operatorname{Var}} \cdot \sqrt{\left(1 + \frac{1}{v\rho^2}\right)
        \log\frac{v\rho^2 + 1}{\alpha^2}}

    With probability 1 - alpha the truth is inside at all looks, as long as the first
    look has enough units for the normal approximation.

    Args:
        effect: at each look.
        intrinsic: `intrinsic_time` v of each look.
        scale: :math:`\rho^2` of `tuned_scale`, fixed before the looks.
        alpha: in (0, 1).

    >>> one = Estimate(np.array(0.0), np.array(1.0))
    >>> wide = always_valid_radius(one, np.array(1.0), tuned_scale(1.0, 0.05), 0.05)
    >>> float(wide.round(2)), float(fixed_radius(one, 0.05).round(2))
    (3.04, 1.96)

    Source: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit
    theory and asymptotic confidence sequences", Annals of Statistics 2024,
    arXiv 2103.06476; the mixture is that of Robbins, "Statistical
    methods related to the law of the iterated logarithm", 1970.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        grown = intrinsic * scale
        multiple = np.sqrt((1 + 1 / grown) * np.log((grown + 1) / alpha**2))
        return np.asarray(multiple * np.sqrt(effect.variance))


def always_valid_p_value(
    effect: Estimate, intrinsic: Float[np.ndarray, "*axes"], scale: float
) -> Float[np.ndarray, "*axes"]:
    r"""Return the p value of each look of the mixture sequential probability ratio.

    .. math:: p = \min\left(1, \sqrt{1 + v\rho^2}
        \exp\left(-\frac{z^2}{2} \cdot \frac{v\rho^2}{1 + v\rho^2}\right)\right)

    It is at most alpha exactly where `always_valid_radius` leaves zero outside; the
    least one of all looks so far is a p value too.

    >>> nothing = Estimate(np.array(0.0), np.array(1.0))
    >>> float(always_valid_p_value(nothing, np.array(1.0), 1.0))
    1.0

    Source: Johari, Koomen, Pekelis, Walsh, "Always Valid Inference: Continuous
    Monitoring of A/B Tests", Operations Research 2022.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        grown = intrinsic * scale
        evidence = np.square(effect.value) / effect.variance / 2 * grown / (1 + grown)
        return np.asarray(np.minimum(1.0, np.sqrt(1 + grown) * np.exp(-evidence)))


def sample_ratio_p_value(
    counts: Float[np.ndarray, " arms"], shares: Float[np.ndarray, " arms"]
) -> float:
    """Return the p value of users having been split as configured (chi-square).

    A tiny one means a sample ratio mismatch: users went missing or were split by
    other rules, and no comparison of the arms can be trusted.

    Args:
        counts: units seen in each arm.
        shares: configured ones, positive; only their proportions matter.

    Returns:
        NaN when nobody was seen.

    >>> sample_ratio_p_value(np.array([500.0, 500.0]), np.array([0.5, 0.5]))
    1.0

    Source: Fabijan et al., "Diagnosing Sample Ratio Mismatch in Online Controlled
    Experiments", KDD 2019.
    """
    if not counts.sum() > 0:
        return float("nan")
    expected = counts.sum() * shares / shares.sum()
    return float(stats.chisquare(counts, expected).pvalue)
