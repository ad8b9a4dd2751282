"""What calibration promises: predicted clicks equal clicks, order kept."""

import numpy as np
import pytest
from scipy.special import expit

from cacs_ray.models.calibration import Calibration, fit_calibration

RNG = np.random.default_rng(0)


def drawn(num_rows, slope, intercept):
    """Logits, and clicks whose true log-odds are slope x logit + intercept."""
    logits = RNG.normal(-2.0, 1.0, num_rows)
    clicks = RNG.random(num_rows) < expit(slope * logits + intercept)
    return logits, clicks.astype(float)


def test_predicted_clicks_become_clicks():
    logits, clicks = drawn(50_000, 0.6, -0.5)
    fitted = fit_calibration(logits, clicks, np.ones_like(logits))
    assert fitted.probability(logits).sum() == pytest.approx(clicks.sum(), rel=1e-3)
    assert fitted.slope == pytest.approx(0.6, abs=0.05)


def test_a_weight_of_two_is_the_row_twice():
    logits, clicks = drawn(4_000, 1.0, 0.3)
    twice = fit_calibration(np.tile(logits, 2), np.tile(clicks, 2), np.ones(8_000))
    heavy = fit_calibration(logits, clicks, np.full(4_000, 2.0))
    assert heavy.slope == pytest.approx(twice.slope, rel=1e-4)
    assert heavy.intercept == pytest.approx(twice.intercept, abs=1e-4)


def test_few_clicks_move_only_the_level():
    logits, clicks = drawn(400, 1.0, 0.0)
    fitted = fit_calibration(logits, clicks, np.ones(400))
    assert 20 <= clicks.sum() < 200
    assert fitted.slope == 1.0
    assert fitted.probability(logits).sum() == pytest.approx(clicks.sum(), rel=1e-6)


@pytest.mark.parametrize("clicks", [np.zeros(300), np.ones(300)])
def test_one_sided_clicks_change_nothing(clicks):
    fitted = fit_calibration(RNG.normal(size=300), clicks, np.ones(300))
    assert (fitted.slope, fitted.intercept) == (1.0, 0.0)


def test_an_order_upside_down_is_not_believed():
    logits, clicks = drawn(5_000, -1.0, -3.0)
    fitted = fit_calibration(logits, clicks, np.ones(5_000))
    assert fitted.slope == 1.0
    assert fitted.probability(logits).sum() == pytest.approx(clicks.sum(), rel=1e-6)


def test_probabilities_are_never_zero_or_one():
    extreme = Calibration().probability(np.array([-1e9, 1e9]))
    assert 0 < extreme[0] < extreme[1] < 1
