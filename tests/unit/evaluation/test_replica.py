"""How latencies that were taken in turns become a ratio."""

import numpy as np
import pytest

from cacs_ray.evaluation.replica import latency_ratios


def latencies(slower, seed=0):
    """Draw 400 latencies of two releases; busy moments hit both, at random."""
    rng = np.random.default_rng(seed)
    times = rng.gamma(4.0, 0.25, (2, 400))
    times *= np.where(rng.random((2, 400)) < 0.05, 30.0, 1.0)
    return times * np.array([[slower], [1.0]])


@pytest.mark.parametrize("seed", range(5))
def test_a_busy_machine_makes_no_release_surely_slower(seed):
    ratios = latency_ratios(latencies(1.0, seed))
    for one in ratios.values():
        assert one["low"] < 1 < one["high"]


def test_a_release_twice_as_slow_is_surely_slower():
    ratios = latency_ratios(latencies(2.0))
    assert ratios["p50"]["value"] == pytest.approx(2, rel=0.2)
    assert ratios["p50"]["low"] > 1.3
