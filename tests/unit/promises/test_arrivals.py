"""Schedules are fixed before a run, and the same for the same seed."""

import numpy as np
import pytest

from cacs_ray.errors import InputError
from cacs_ray.promises.arrivals import constant_arrivals, poisson_arrivals


def test_constant_arrivals_keep_their_distance():
    arrivals = constant_arrivals(20.0, 3.0)
    assert len(arrivals) == 20 * 3
    np.testing.assert_allclose(np.diff(arrivals), 1 / 20)
    assert arrivals[0] == 0


def test_poisson_arrivals_are_repeated_by_seed_and_ascend():
    arrivals = poisson_arrivals(100.0, 50.0, seed=3)
    np.testing.assert_array_equal(arrivals, poisson_arrivals(100.0, 50.0, seed=3))
    assert not np.array_equal(arrivals, poisson_arrivals(100.0, 50.0, seed=4))
    assert len(arrivals) == 100 * 50
    assert (np.diff(arrivals) >= 0).all()
    assert 0 <= arrivals[0] <= arrivals[-1] < 50


def test_poisson_gaps_spread_as_exponential_ones():
    gaps = np.diff(poisson_arrivals(100.0, 100.0, seed=0))
    # Of an exponential distribution mean and deviation are the same.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert (gaps < gaps.mean()).mean() == pytest.approx(1 - np.exp(-1), abs=0.02)


@pytest.mark.parametrize(
    ("rate", "duration_s"),
    [(0, 1), (-1, 1), (1, 0), (0.1, 1), (1e9, 10), (float("nan"), 1)],
)
def test_a_load_without_end_or_without_requests_is_refused(rate, duration_s):
    with pytest.raises(InputError):
        constant_arrivals(rate, duration_s)
