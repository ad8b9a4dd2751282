"""What the ranking figures promise; scikit-learn is the judge where it has them."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from cacs_ray.metrics.ranking import (
    auc,
    calibration,
    gauc,
    log_loss,
    normalised_entropy,
)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 400)
    predicted = np.round(rng.uniform(0.01, 0.99, 400), 1)  # many ties
    return label, predicted, rng.uniform(0.1, 5, 400), rng.integers(0, 40, 400)


def test_auc_and_log_loss_agree_with_scikit_learn(rows):
    label, predicted, weight, _ = rows
    expected = sklearn_metrics.roc_auc_score(label, predicted, sample_weight=weight)
    assert auc(label, predicted, weight) == pytest.approx(expected, abs=1e-9)
    expected = sklearn_metrics.log_loss(label, predicted, sample_weight=weight)
    assert log_loss(label, predicted, weight) == pytest.approx(expected, abs=1e-9)


def test_gauc_is_the_weighted_mean_of_scikit_learns_auc_per_group(rows):
    label, predicted, weight, group = rows
    values, masses = [], []
    for number in range(40):
        mine = group == number
        if len(set(label[mine])) == 2:
            values.append(
                sklearn_metrics.roc_auc_score(
                    label[mine], predicted[mine], sample_weight=weight[mine]
                )
            )
            masses.append(weight[mine].sum())
    expected = np.average(values, weights=masses)
    assert gauc(label, predicted, group, weight) == pytest.approx(expected, abs=1e-9)


def test_one_group_is_plain_auc_and_a_level_per_group_changes_nothing(rows):
    label, predicted, weight, group = rows
    one = np.zeros_like(group)
    assert gauc(label, predicted, one, weight) == pytest.approx(
        auc(label, predicted, weight), abs=1e-12
    )
    assert gauc(label, predicted + group, group, weight) == pytest.approx(
        gauc(label, predicted, group, weight)
    )


def test_rows_without_a_group_have_no_say(rows):
    label, predicted, weight, group = rows
    known = group > 3
    hidden = np.where(known, group, -1)
    assert gauc(label, predicted, hidden, weight) == pytest.approx(
        gauc(label[known], predicted[known], group[known], weight[known])
    )


def test_normalised_entropy_is_scikit_learns_log_loss_over_that_of_the_mean(rows):
    label, predicted, weight, _ = rows
    mean = np.full(len(label), np.average(label, weights=weight))
    expected = sklearn_metrics.log_loss(
        label, predicted, sample_weight=weight
    ) / sklearn_metrics.log_loss(label, mean, sample_weight=weight)
    actual = normalised_entropy(label, predicted, weight)
    assert actual == pytest.approx(expected, abs=1e-9)


def test_bins_of_calibration_agree_with_scikit_learns_quantiles():
    rng = np.random.default_rng(0)
    label, predicted = rng.integers(0, 2, 400), rng.random(400)
    observed, mean = calibration_curve(label, predicted, n_bins=8, strategy="quantile")
    result = calibration(label, predicted, num_bins=8)
    np.testing.assert_allclose(result.bin_predicted, mean, atol=1e-9)
    np.testing.assert_allclose(result.bin_observed, observed, atol=1e-9)
    assert result.ece == pytest.approx(np.abs(mean - observed).mean(), abs=1e-9)


@pytest.mark.parametrize("label", [[0, 0], [1, 1]])
def test_one_class_has_no_auc_and_no_normalised_entropy(label):
    label, predicted = np.array(label), np.array([0.1, 0.2])
    assert np.isnan(auc(label, predicted))
    assert np.isnan(gauc(label, predicted, np.zeros(2, int)))
    assert np.isnan(normalised_entropy(label, predicted))
    assert np.isfinite(log_loss(label, predicted))


def test_no_rows_no_figures():
    nothing, none = np.zeros(0), np.zeros(0, int)
    assert np.isnan(auc(none, nothing))
    assert np.isnan(gauc(none, nothing, none))
    assert np.isnan(log_loss(none, nothing))
    assert np.isnan(calibration(none, nothing).ece)


def test_normalised_entropy_of_the_mean_is_one():
    label = np.array([1, 0, 0, 0])
    assert normalised_entropy(label, np.full(4, 0.25)) == pytest.approx(1)


def test_calibration_is_predicted_over_observed_clicks():
    label, predicted = np.array([1, 0, 0, 0]), np.array([0.2, 0.2, 0.4, 0.4])
    result = calibration(label, predicted, num_bins=2)
    assert result.ratio == pytest.approx(1.2)
    # |.2 - .5| and |.4 - 0|, half the mass each
    assert result.ece == pytest.approx((0.3 + 0.4) / 2)
    assert result.bin_predicted == pytest.approx([0.2, 0.4])
    assert result.bin_observed == pytest.approx([0.5, 0.0])


def test_bins_hold_equal_mass_not_equal_rows():
    weight = np.array([6.0, 1, 1, 1, 1, 1, 1])
    predicted = np.linspace(0.1, 0.7, 7)
    result = calibration(np.zeros(7), predicted, weight, num_bins=2)
    assert result.bin_weight.tolist() == [6, 6]


def test_the_order_of_tied_rows_has_no_say_in_calibration(rows):
    label, predicted, weight, _ = rows
    order = np.random.default_rng(1).permutation(len(label))
    shuffled = calibration(label[order], predicted[order], weight[order])
    assert shuffled.ece == pytest.approx(calibration(label, predicted, weight).ece)


def test_without_clicks_calibration_has_no_ratio():
    assert np.isnan(calibration(np.zeros(2), np.full(2, 0.1)).ratio)
