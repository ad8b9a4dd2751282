"""What the cluster bootstrap promises."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy import stats

from cacs_ray.metrics.intervals import (
    cluster_bootstrap,
    pool_clusters,
    ratio_intervals,
    sum_by_cluster,
)


def market(seed, clusters=80):
    """Clicks and impressions of ads whose CTRs differ around .1."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(5, 60, clusters)
    clicks = rng.binomial(shown, rng.beta(5, 45, clusters))
    return np.stack([clicks, shown], axis=1).astype(float)


def test_the_value_is_the_ratio_of_the_totals():
    sums = np.array([[1.0, 4.0], [2.0, 4.0], [0.0, 2.0]])
    result = ratio_intervals(sums)
    assert result.value == pytest.approx([3 / 10])
    assert result.low[0] < result.value[0] < result.high[0]


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    truth, runs = 0.1, 300
    held = 0
    for seed in range(runs):
        result = ratio_intervals(market(seed), replicates=300, seed=seed)
        held += bool(result.low[0] <= truth <= result.high[0])
    # 95 % of 300 is 285; four standard errors are 15.
    assert 0.95 * runs - 15 <= held <= runs


def test_rows_of_one_cluster_are_not_taken_for_independent():
    sums = market(0)
    wide = ratio_intervals(sums)
    # The same clicks pretend to come from ten times as many clusters.
    split = np.repeat(sums / 10, 10, axis=0)
    narrow = ratio_intervals(split)
    assert (wide.high - wide.low) > 2 * (narrow.high - narrow.low)


def test_comparisons_are_paired():
    # The second policy is always exactly 10 % better: no doubt about the lift.
    sums = market(0)
    columns = np.column_stack([sums[:, 0], 1.1 * sums[:, 0], sums[:, 1]])
    lift = cluster_bootstrap(columns, lambda t: t[..., 1:2] / t[..., :1] - 1)
    assert lift.value == pytest.approx([0.1])
    assert lift.low == pytest.approx([0.1])
    assert lift.high == pytest.approx([0.1])


def test_equal_seeds_give_equal_intervals():
    first, again = (ratio_intervals(market(0), seed=1) for _ in range(2))
    other = ratio_intervals(market(0), seed=2)
    assert first.low == again.low
    assert first.low != other.low


def test_a_wider_level_gives_a_wider_interval():
    narrow, wide = (ratio_intervals(market(0), level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("clusters", [0, 1])
def test_one_cluster_says_nothing_about_the_spread(clusters):
    result = ratio_intervals(np.ones((clusters, 2)))
    assert np.isnan(result.low).all()
    assert np.isnan(result.high).all()


def test_a_figure_that_most_replicates_lack_has_no_interval():
    # Only one of many clusters has a denominator; it is missing from 37 % of draws.
    sums = np.zeros((50, 2))
    sums[0] = [1.0, 2.0]
    result = ratio_intervals(sums)
    assert result.value == [0.5]
    assert np.isnan(result.low).all()


def test_sums_by_cluster_are_sums_of_rows():
    columns = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    sums = sum_by_cluster(columns, np.array([2, 0, 2]))
    assert sums.tolist() == [[2, 20], [0, 0], [5, 50]]


def test_pooling_many_clusters_keeps_them_whole_and_the_interval_about_as_wide():
    cluster = np.repeat(np.arange(3000) * 5, 2)
    pooled = pool_clusters(cluster, limit=300)
    assert (pooled[::2] == pooled[1::2]).all()
    assert sorted(set(pooled.tolist())) == list(range(300))

    rows = np.repeat(market(0, clusters=3000) / 2, 2, axis=0)
    whole = ratio_intervals(sum_by_cluster(rows, pool_clusters(cluster)))
    thrown = ratio_intervals(sum_by_cluster(rows, pooled))
    ratio = (thrown.high - thrown.low) / (whole.high - whole.low)
    assert ratio == pytest.approx([1], abs=0.2)


def test_bounds_agree_with_scipys_bca():
    sums = market(0)
    scipys = stats.bootstrap(
        (sums[:, 0], sums[:, 1]),
        lambda clicks, shown, axis: clicks.sum(axis) / shown.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="BCa",
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = ratio_intervals(sums, replicates=20_000)
    # Both are drawn: three per cent of the width is what 20,000 draws leave open.
    width = scipys.high - scipys.low
    assert ours.low[0] == pytest.approx(scipys.low, abs=0.03 * width)
    assert ours.high[0] == pytest.approx(scipys.high, abs=0.03 * width)


def test_the_order_and_the_unit_of_the_clusters_have_no_say_in_the_value():
    sums = market(0)
    order = np.random.default_rng(1).permutation(len(sums))
    plain, other = ratio_intervals(sums), ratio_intervals(4 * sums[order])
    assert other.value == pytest.approx(plain.value)
    assert other.high - other.low == pytest.approx(plain.high - plain.low, rel=0.1)


def test_a_wrong_shape_is_refused():
    with pytest.raises(TypeCheckError):
        ratio_intervals(np.ones((5, 3)))
    with pytest.raises(TypeCheckError):
        sum_by_cluster(np.ones((5, 2)), np.zeros(4, int))
