"""What sCTR, NSCTR and the normalised gain promise."""

import numpy as np
import pytest

from cacs_ray.metrics.creative import normalised_gain, nsctr, sctr

# Ad 0: 4 impressions, two matched of which one clicked. Ad 1: 6, three matched, none
# clicked. Ad 2: 2, no match.
AD = np.array([0] * 4 + [1] * 6 + [2] * 2)
MATCH = np.array([1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0], float)
LABEL = np.array([1, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1, 1])
ONES = np.ones(12)


def test_sctr_counts_only_what_matches():
    assert sctr(LABEL, MATCH, ONES) == 1 / 5


def test_nsctr_gives_every_ad_its_traffic_back():
    result = nsctr(LABEL, MATCH, AD, ONES)
    # (1 x 4 / 2 + 0 x 6 / 3) / (4 + 6): the ad without a match falls out of both sums.
    assert result.value == pytest.approx(2 / 10)
    assert result.coverage == pytest.approx(10 / 12)


def test_where_every_ad_matches_evenly_nsctr_is_sctr():
    match = np.ones(12)
    assert nsctr(LABEL, match, AD, ONES).value == pytest.approx(
        sctr(LABEL, match, ONES)
    )


def test_a_random_policy_matches_by_its_probability():
    label, match = np.array([1, 0]), np.array([0.25, 0.75])
    assert sctr(label, match, np.ones(2)) == 0.25


def test_without_a_match_there_is_no_figure():
    assert np.isnan(sctr(LABEL, np.zeros(12), ONES))
    result = nsctr(LABEL, np.zeros(12), AD, ONES)
    assert np.isnan(result.value)
    assert result.coverage == 0


@pytest.mark.parametrize(("value", "gain"), [(1.0, 0.0), (2.0, 0.5), (0.5, -0.25)])
def test_normalised_gain_runs_from_random_to_the_oracle(value, gain):
    assert normalised_gain(value, random=1.0, oracle=3.0) == gain


def test_without_a_gap_there_is_nothing_to_gain():
    assert np.isnan(normalised_gain(1.0, random=1.0, oracle=1.0))
