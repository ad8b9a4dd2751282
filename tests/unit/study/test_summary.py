"""Means over seeds, their intervals, paired differences."""

import numpy as np
import pytest
from scipy import stats

from cacs_ray.study.summary import interval, metric_agreement, summarise


def test_the_interval_is_student_s():
    values = [0.70, 0.74, 0.71, 0.78, 0.69]
    found = interval(values, 0.95)
    half = stats.t.ppf(0.975, 4) * np.std(values, ddof=1) / np.sqrt(5)
    assert found["value"] == pytest.approx(np.mean(values))
    assert found["high"] - found["value"] == pytest.approx(half)
    assert found["seeds"] == 5


def test_one_seed_has_no_interval():
    assert np.isnan(interval([0.7], 0.95)["low"])
    assert np.isnan(interval([], 0.95)["value"])


def test_differences_are_paired_by_seed():
    # Seeds differ by 0.5, variants always by 0.02.
    cells = {
        "full": {seed: {"gain": 0.1 * seed} for seed in range(5)},
        "less": {seed: {"gain": 0.1 * seed - 0.02} for seed in range(5)},
    }
    less = summarise(cells, 0.95)["less"]["gain"]["less"]
    assert less["value"] == pytest.approx(-0.02)
    assert less["high"] < 0


def test_seeds_that_only_one_side_has_are_left_out_of_pairs():
    cells = {"full": {0: {"gain": 0.5}}, "b": {0: {"gain": 0.4}, 1: {"gain": 9.0}}}
    less = summarise(cells, 0.95)["b"]["gain"]["less"]
    assert less["value"] == pytest.approx(-0.1)
    assert less["seeds"] == 1


def test_a_metric_that_orders_as_the_truth_does_correlates_fully():
    unit = {
        name: {"true_ctr": 0.1 * i, "good": 0.2 * i, "bad": -0.1 * i}
        for i, name in enumerate("abcd")
    }
    table = metric_agreement([unit], ["good", "bad", "missing"])
    assert table["good"]["rank_correlation"] == pytest.approx(1.0)
    assert table["bad"]["worst"] == pytest.approx(-1.0)
    assert table["good"]["bias"] == pytest.approx(0.15)
    assert "missing" not in table
