"""What the off-policy estimators promise."""

import numpy as np
import pytest

from cacs_ray.metrics.creative import sctr
from cacs_ray.metrics.off_policy import dr, effective_sample_size, ips, snips

LABEL = np.array([1, 0, 0, 1])
RHO = np.array([2.0, 2.0, 0.0, 4.0])
WEIGHT = np.array([1.0, 3.0, 2.0, 1.0])


def test_the_formulas():
    assert ips(LABEL, RHO, WEIGHT) == (2 + 4) / 7
    assert snips(LABEL, RHO, WEIGHT) == (2 + 4) / (2 + 6 + 4)
    model = np.full(4, 0.1), np.full(4, 0.2)
    correction = 2 * 0.8 - 3 * 2 * 0.2 + 4 * 0.8
    assert dr(LABEL, RHO, WEIGHT, *model) == pytest.approx(0.1 + correction / 7)
    assert effective_sample_size(RHO, WEIGHT) == pytest.approx(
        (2 + 6 + 4) ** 2 / (4 + 12 + 16)
    )


def test_weights_of_a_sample_are_repeated_rows():
    times = WEIGHT.astype(int)
    rho, ones = np.repeat(RHO, times), np.ones(7)
    assert effective_sample_size(RHO, WEIGHT) == pytest.approx(
        effective_sample_size(rho, ones)
    )


def test_a_target_that_is_the_logging_policy_sees_the_plain_ctr():
    ones, ctr = np.ones(4), WEIGHT @ LABEL / WEIGHT.sum()
    model = np.full(4, 0.3)
    assert ips(LABEL, ones, WEIGHT) == pytest.approx(ctr)
    assert snips(LABEL, ones, WEIGHT) == pytest.approx(ctr)
    assert dr(LABEL, ones, WEIGHT, model, model) == pytest.approx(ctr)
    assert effective_sample_size(ones, WEIGHT) == pytest.approx(7)


def test_under_uniform_logging_over_equal_lists_snips_is_sctr():
    match = np.array([1.0, 0.0, 0.0, 1.0])
    assert snips(LABEL, match / 0.5, WEIGHT) == sctr(LABEL, match, WEIGHT)


def test_without_a_match_there_is_no_snips_and_no_sample():
    nothing = np.zeros(4)
    assert np.isnan(snips(LABEL, nothing, WEIGHT))
    assert ips(LABEL, nothing, WEIGHT) == 0
    assert effective_sample_size(nothing, WEIGHT) == 0


@pytest.mark.parametrize("estimator", ["ips", "snips", "dr", "dr with a bad model"])
def test_on_biased_logs_the_truth_is_found_where_plain_sctr_misses_it(estimator):
    # Two kinds of users. Creative 0 is shown mostly to those who click anyway.
    rng = np.random.default_rng(0)
    size = 200_000
    eager = rng.random(size) < 0.5
    p_zero = np.where(eager, 0.9, 0.1)
    shown_zero = rng.random(size) < p_zero
    ctr = np.where(eager, 0.30, 0.10) + np.where(shown_zero, 0.0, 0.05)
    label = (rng.random(size) < ctr).astype(int)
    match = shown_zero.astype(float)  # the target always shows creative 0
    rho, ones = match / p_zero, np.ones(size)
    model = np.where(eager, 0.30, 0.10) if estimator == "dr" else np.full(size, 0.7)

    value = {
        "ips": lambda: ips(label, rho, ones),
        "snips": lambda: snips(label, rho, ones),
    }.get(estimator, lambda: dr(label, rho, ones, model, model))()

    assert value == pytest.approx(0.20, abs=0.01)
    assert sctr(label, match, ones) == pytest.approx(0.28, abs=0.01)
