"""What the prior of creative CTRs promises."""

import numpy as np
import pytest

from cacs_ray.features.counts import beta_prior

RNG = np.random.default_rng(0)


def test_the_prior_that_made_the_counts_is_found():
    impressions = np.full(5_000, 200.0)
    clicks = RNG.binomial(200, RNG.beta(5.0, 95.0, 5_000)).astype(float)
    alpha, beta = beta_prior(clicks, impressions)
    assert alpha / (alpha + beta) == pytest.approx(0.05, rel=0.03)
    assert alpha + beta == pytest.approx(100.0, rel=0.1)


def test_equal_creatives_get_the_strongest_prior():
    impressions = np.full(2_000, 500.0)
    clicks = np.full(2_000, 25.0)
    alpha, beta = beta_prior(clicks, impressions)
    assert alpha + beta == pytest.approx(1e4)


def test_creatives_that_were_not_shown_have_no_say():
    clicks, impressions = np.array([3.0, 8.0]), np.array([90.0, 110.0])
    more = np.append(clicks, 0.0), np.append(impressions, 0.0)
    assert beta_prior(*more) == beta_prior(clicks, impressions)


@pytest.mark.parametrize(
    ("clicks", "seen"), [([0.0], [10.0]), ([], []), ([0.0], [0.0])]
)
def test_without_clicks_a_weak_usual_prior_is_taken(clicks, seen):
    assert beta_prior(np.array(clicks), np.array(seen)) == (1.0, 19.0)
