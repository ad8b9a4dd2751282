"""What the comparison of two arms promises: right intervals, and honest looks."""

import numpy as np
import pytest
from scipy import stats

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
    ratio_moments,
    sample_ratio_p_value,
    tuned_scale,
)

ALPHA = 0.05
LOOKS = 20


def estimate(value, variance):
    return Estimate(np.asarray(value, float), np.asarray(variance, float))


def test_the_ratio_is_that_of_the_totals_and_not_of_the_users():
    # One of 1 and 0 of 3: the mean of the users' CTRs would be 1/2.
    one = ratio_estimate(ratio_moments(np.array([[1.0, 1.0], [0.0, 3.0]])))
    assert one.value == pytest.approx(1 / 4)
    # Residuals 3/4 and -3/4, so 2 x 9/16 / 4^2, times 2 / (2 - 1).
    assert one.variance == pytest.approx(2 * 9 / 16 / 16 * 2)


def test_a_user_counts_once_however_often_they_come():
    # The same clicks of ten users, and of one who came ten times.
    rng = np.random.default_rng(1)
    shown = np.full(200, 10.0)
    often = rng.binomial(10, rng.beta(0.5, 4.5, 200)).astype(float)
    by_user = ratio_estimate(ratio_moments(np.stack([often, shown], 1)))
    total = shown.sum()
    by_row = by_user.value * (1 - by_user.value) / total
    assert by_user.variance > 2 * by_row


def test_nothing_is_claimed_of_one_user_or_none():
    assert np.isnan(ratio_estimate(ratio_moments(np.array([[1.0, 2.0]]))).variance)
    nobody = ratio_estimate(np.zeros(6))
    assert np.isnan(nobody.value)
    assert np.isnan(nobody.variance)


def test_the_second_arm_less_the_first():
    one = difference(estimate(0.10, 0.01), estimate(0.12, 0.02))
    assert one.value == pytest.approx(0.02)
    assert one.variance == pytest.approx(0.03)


def test_the_lift_is_relative_to_the_first_arm():
    one = log_ratio(estimate(0.1, 1e-6), estimate(0.125, 4e-6))
    assert np.expm1(one.value) == pytest.approx(0.25)
    assert one.variance == pytest.approx(1e-6 / 0.1**2 + 4e-6 / 0.125**2)
    assert np.isnan(log_ratio(estimate(0.0, 0.0), estimate(0.1, 1e-6)).variance)


def test_one_look_is_the_z_test():
    effect = estimate(0.3, 0.04)
    assert fixed_p_value(effect) == pytest.approx(2 * stats.norm.sf(1.5))
    assert fixed_radius(effect, 0.1) == pytest.approx(stats.norm.isf(0.05) * 0.2)


def test_time_goes_by_what_was_seen_and_not_by_who_came():
    # Means of 10 and of 40 rows of variance 3: sums of variance 30 and 120.
    means = estimate([0.0, 0.0], [3 / 10, 3 / 40])
    assert intrinsic_time(means, np.array([10.0, 40.0])) == pytest.approx([30, 120])


@pytest.mark.parametrize("grown", [0.01, 1.0, 50.0])
def test_the_p_value_reaches_alpha_where_the_sequence_leaves_zero(grown):
    scale = tuned_scale(4.0, ALPHA)
    intrinsic = np.asarray(4.0 * grown)
    radius = always_valid_radius(estimate(0, 2.0), intrinsic, scale, ALPHA)
    at_bound = always_valid_p_value(estimate(radius, 2.0), intrinsic, scale)
    assert at_bound == pytest.approx(ALPHA)


def test_the_scale_makes_the_sequence_narrowest_where_it_was_planned():
    intrinsic = np.geomspace(0.01, 100, 401)
    widths = [
        float(always_valid_radius(estimate(0, 1.0), np.asarray(1.0), s, ALPHA))
        for s in (tuned_scale(v, ALPHA) for v in intrinsic)
    ]
    assert intrinsic[int(np.argmin(widths))] == pytest.approx(1.0, rel=0.15)


def arms_over_time(rng, *, users, lift):
    """Return moments [LOOKS, 2, 6] of two arms whose users come back and differ."""
    moments = np.empty((LOOKS, 2, 6))
    for arm, factor in enumerate((1.0, 1.0 + lift)):
        ctr = rng.beta(4, 36, users) * factor
        # Half of the users are there from the start, the others arrive.
        arrives = np.where(rng.random(users) < 0.5, 0, rng.integers(0, LOOKS, users))
        shown = rng.poisson(2.0, (LOOKS, users)) * (
            np.arange(LOOKS)[:, None] >= arrives
        )
        clicks = rng.binomial(shown, ctr).cumsum(0).astype(float)
        shown = shown.cumsum(0).astype(float)
        for look in range(LOOKS):
            seen = shown[look] > 0
            sums = np.stack([clicks[look][seen], shown[look][seen]], 1)
            moments[look, arm] = ratio_moments(sums)
    return moments


def looks_of(moments):
    """Return which looks find a difference, with the peeked and the honest test."""
    arms = ratio_estimate(moments)
    effect = difference(
        *(Estimate(arms.value[:, a], arms.variance[:, a]) for a in (0, 1))
    )
    intrinsic = intrinsic_time(effect, moments[..., 2].sum(1))
    scale = tuned_scale(10 * float(intrinsic[0]), ALPHA)
    peeked = fixed_p_value(effect) <= ALPHA
    return peeked, always_valid_p_value(effect, intrinsic, scale) <= ALPHA


def test_looking_often_costs_nothing_with_the_always_valid_test():
    rng = np.random.default_rng(7)
    tests = 400
    ever_peeked, ever_valid, last_only = 0, 0, 0
    for _ in range(tests):
        peeked, valid = looks_of(arms_over_time(rng, users=250, lift=0.0))
        ever_peeked += peeked.any()
        ever_valid += valid.any()
        last_only += peeked[-1]
    most = stats.binom.ppf(0.999, tests, ALPHA)
    assert ever_valid <= most
    # The fixed test holds at its one planned look, and breaks when looked at often:
    # so these data would have shown a broken sequence too.
    assert last_only <= most
    assert ever_peeked > 2 * most


def test_a_real_effect_is_found_and_never_missed_by_both_signs():
    rng = np.random.default_rng(8)
    found = [looks_of(arms_over_time(rng, users=1500, lift=0.2))[1] for _ in range(60)]
    assert np.mean([one.any() for one in found]) > 0.9
    # Stopping at the first sign saves users: seldom are all looks needed.
    assert np.median([one.argmax() for one in found if one.any()]) < LOOKS / 2


def test_the_sequence_holds_the_truth_at_all_looks():
    rng = np.random.default_rng(9)
    missed = 0
    for _ in range(200):
        moments = arms_over_time(rng, users=250, lift=0.5)
        arms = ratio_estimate(moments)
        effect = difference(
            *(Estimate(arms.value[:, a], arms.variance[:, a]) for a in (0, 1))
        )
        intrinsic = intrinsic_time(effect, moments[..., 2].sum(1))
        scale = tuned_scale(10 * float(intrinsic[0]), ALPHA)
        radius = always_valid_radius(effect, intrinsic, scale, ALPHA)
        missed += bool((np.abs(effect.value - 0.05) > radius).any())
    assert missed <= stats.binom.ppf(0.999, 200, ALPHA)


@pytest.mark.parametrize(
    ("counts", "shares", "is_even"),
    [
        ([5050, 4950], [0.5, 0.5], True),
        ([5300, 4700], [0.5, 0.5], False),
        ([9000, 1000], [9, 1], True),
        ([9000, 1000], [0.5, 0.5], False),
        ([0, 100], [0.5, 0.5], False),
    ],
)
def test_a_lost_user_share_is_noticed(counts, shares, is_even):
    p_value = sample_ratio_p_value(np.array(counts, float), np.array(shares, float))
    assert (p_value > 0.001) == is_even


def test_nobody_is_no_mismatch():
    assert np.isnan(sample_ratio_p_value(np.zeros(2), np.ones(2)))
