"""What calibration promises: predicted clicks equal clicks, order kept."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy.special import expit

from cacs_ray.models.calibrating import Choices, fit_calibration
from cacs_ray.models.calibration import Calibration

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_draws():
    """Start the generator again: tests run in any order."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


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


def by_experience(num_rows=200_000):
    """Logits that promise too much for rare creatives and too little for new ones."""
    logits = RNG.normal(-2.0, 0.7, num_rows)
    seen = RNG.choice([0.0, 3.0, 300.0], num_rows)
    off = np.select([seen == 0, seen == 3], [0.25, -0.3], 0.0)
    clicks = (RNG.random(num_rows) < expit(logits + off)).astype(float)
    return logits, clicks, seen


def test_each_experience_has_its_own_level():
    logits, clicks, seen = by_experience()
    fitted = fit_calibration(logits, clicks, np.ones_like(logits), seen)
    predicted = fitted.probability(logits, seen)
    for value in (0.0, 3.0, 300.0):
        rows = seen == value
        ratio = predicted[rows].sum() / clicks[rows].sum()
        assert ratio == pytest.approx(1.0, abs=0.02), value


def test_few_clicks_of_an_experience_move_it_little():
    logits, clicks, seen = by_experience(3_000)
    seen[:] = 300.0
    seen[:20], clicks[:20] = 0.0, 0.0
    fitted = fit_calibration(logits, clicks, np.ones_like(logits), seen)
    one = np.array([-2.0])
    apart = fitted.probability(one, np.zeros(1)) / fitted.probability(one, one * -150)
    assert 0.8 < apart[0] < 1.0


def test_an_unknown_creative_is_not_shifted():
    calibration = Calibration(shifts=(1.0, 1.0, 1.0, 1.0, 1.0))
    logits = np.array([0.0, 0.0])
    known, unknown = calibration.probability(logits, np.array([5.0, np.nan]))
    assert unknown == pytest.approx(0.5)
    assert known == pytest.approx(expit(1.0))


def with_choices(num_rows, effect, seed=0):
    """Rows of lists of four; clicks depend on the standout as the ranker does not."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0.0, 0.6, (num_rows, 4))
    above = scores - scores.mean(1, keepdims=True)
    shown = rng.integers(0, 4, num_rows)
    standout = above[np.arange(num_rows), shown]
    best = above.max(1)
    logits = rng.normal(-2.0, 0.7, num_rows)
    clicks = (rng.random(num_rows) < expit(logits + effect * standout)).astype(float)
    truth = expit(logits + effect * best)
    choices = Choices(standout, standout == best, float(best.mean()))
    return logits, clicks, truth, choices


@pytest.mark.parametrize("effect", [-0.4, 0.0, 0.4])
def test_the_level_is_that_of_chosen_creatives(effect):
    logits, clicks, truth, choices = with_choices(200_000, effect)
    rows = logits, clicks, np.ones(200_000)
    plain = fit_calibration(*rows).probability(logits).sum() / truth.sum()
    moved = fit_calibration(*rows, choices=choices).probability(logits).sum()
    assert moved / truth.sum() == pytest.approx(1.0, abs=0.02)
    if effect:
        assert abs(plain - 1) > 0.1


def test_the_level_of_chosen_creatives_is_steadier_than_their_own_clicks_say():
    ratios = {"all": [], "own": []}
    for seed in range(40):
        logits, clicks, truth, choices = with_choices(8_000, 0.2, seed)
        rows = logits, clicks, np.ones(8_000)
        own = [column[choices.is_chosen] for column in rows]
        for name, fitted in (
            ("all", fit_calibration(*rows, choices=choices)),
            ("own", fit_calibration(*own)),
        ):
            predicted = fitted.probability(logits[choices.is_chosen]).sum()
            ratios[name].append(predicted / truth[choices.is_chosen].sum())
    assert np.std(ratios["all"]) < 0.9 * np.std(ratios["own"])
    assert np.mean(ratios["all"]) == pytest.approx(1.0, abs=0.02)


def test_an_average_impression_is_not_shifted():
    # Most creatives are well known; the prior alone would centre the knots instead.
    logits, clicks, seen = by_experience(60_000)
    seen = np.where(np.arange(60_000) % 10 == 0, seen, 300.0)
    fitted = fit_calibration(logits, clicks, np.ones(60_000), seen)
    unknown = fitted.probability(logits)
    assert unknown.sum() == pytest.approx(clicks.sum(), rel=0.02)


@pytest.mark.parametrize("impressions_per_row", [1.0, 1e4, 1e6])
def test_rows_that_stand_for_many_impressions_are_no_harder(impressions_per_row):
    logits, clicks, seen = by_experience(20_000)
    weight = np.full(20_000, impressions_per_row)
    fitted = fit_calibration(logits, clicks, weight, seen)
    predicted = fitted.probability(logits, seen)
    assert fitted.shifts
    for value in (0.0, 3.0, 300.0):
        rows = seen == value
        assert predicted[rows].sum() / clicks[rows].sum() == pytest.approx(1, abs=0.06)


def test_probability_is_the_formula():
    calibration = Calibration(slope=0.5, intercept=-1.0, shifts=(0.3, 0.1, 0, 0, 0))
    # Halfway between 0 and 3 impressions in log(1 + n): n = 1, as 1 + 1 = sqrt(1 + 3).
    shift = (0.3 + 0.1) / 2
    expected = 1 / (1 + np.exp(-(0.5 * 2.0 - 1.0 + shift)))
    actual = calibration.probability(np.array([2.0]), np.array([1.0]))
    assert actual == pytest.approx([expected])


def test_the_order_of_the_rows_has_no_say():
    logits, clicks, seen = by_experience(20_000)
    weight = RNG.uniform(0.5, 3.0, 20_000)
    order = RNG.permutation(20_000)
    plain = fit_calibration(logits, clicks, weight, seen)
    shuffled = fit_calibration(*[c[order] for c in (logits, clicks, weight, seen)])
    assert shuffled.slope == pytest.approx(plain.slope, abs=1e-6)
    assert shuffled.intercept == pytest.approx(plain.intercept, abs=1e-6)
    assert shuffled.shifts == pytest.approx(plain.shifts, abs=1e-6)


def test_a_row_without_weight_has_no_say():
    logits, clicks, seen = by_experience(20_000)
    weight = (np.arange(20_000) % 3 > 0).astype(float)
    kept = weight > 0
    whole = fit_calibration(logits, clicks, weight, seen)
    part = fit_calibration(*[c[kept] for c in (logits, clicks, weight, seen)])
    assert part.slope == pytest.approx(whole.slope, abs=1e-6)
    assert part.shifts == pytest.approx(whole.shifts, abs=1e-6)


def test_a_level_of_all_logits_is_taken_up_by_the_intercept():
    logits, clicks = drawn(20_000, 1.0, 0.3)
    ones = np.ones(20_000)
    plain, moved = (fit_calibration(x, clicks, ones) for x in (logits, logits + 3.0))
    np.testing.assert_allclose(
        moved.probability(logits + 3.0), plain.probability(logits), rtol=1e-3
    )


def test_a_wrong_shape_is_refused():
    logits, clicks = drawn(400, 1.0, 0.0)
    with pytest.raises(TypeCheckError):
        fit_calibration(logits, clicks, np.ones(399))
    with pytest.raises(TypeCheckError):
        Calibration().probability(logits, np.ones(399))
