"""What a study says of one policy on one window."""

import dataclasses

import numpy as np
import pytest

from cacs_ray.metrics.creative import normalised_gain
from cacs_ray.study.figures import (
    calibration_figures,
    chosen_calibration,
    list_gain,
    model_figures,
    policy_figures,
    rare_ads,
)
from cacs_ray.study.window import JudgedWindow
from tests.unit.evaluation.logs import hats_and_shoes, simulated

TRUTH = np.array([[0.1, 0.3, np.nan]] * 4 + [[0.2, 0.2, 0.8]] * 4)


@pytest.fixture
def window():
    return JudgedWindow(hats_and_shoes(), TRUTH)


def test_a_choice_that_is_always_best_gains_one(window):
    assert policy_figures(window, "cacs")["gain"] == pytest.approx(1.0)
    assert policy_figures(window, "random")["gain"] == pytest.approx(0.0)


def test_gain_is_the_formula_over_sums(window):
    # Popular takes the worse hat and the first shoe.
    value = (4 * 0.1 + 4 * 0.2) / 8
    random, oracle = (4 * 0.2 + 4 * 0.4) / 8, (4 * 0.3 + 4 * 0.8) / 8
    expected = normalised_gain(value, random=random, oracle=oracle)
    assert policy_figures(window, "popular")["gain"] == pytest.approx(expected)


def test_rows_count_as_often_as_their_weight():
    heavy = np.array([3.0] * 4 + [1.0] * 4, np.float32)
    window = JudgedWindow(hats_and_shoes(weight=heavy), TRUTH)
    target = np.zeros((8, 3))
    target[:4, 0] = target[4:, 2] = 1.0
    gain = list_gain(TRUTH, target, heavy.astype(float))
    # Hats: -0.1 of 0.1; shoes: 0.4 of 0.4.
    assert gain == pytest.approx((3 * 4 * -0.1 + 4 * 0.4) / (3 * 4 * 0.1 + 4 * 0.4))
    assert policy_figures(window, "cacs")["true_ctr"] == pytest.approx(
        (3 * 4 * 0.3 + 4 * 0.8) / 16
    )


def test_new_creatives_are_judged_among_themselves():
    seen = np.array([0.0, 10, 5, 0, 0, 2000])
    window = JudgedWindow(hats_and_shoes(impressions=seen), TRUTH)
    # Of shoes 3 and 4, both new, the student likes 4; in truth they are alike.
    assert "gain/new" not in policy_figures(window, "cacs")
    apart = TRUTH.copy()
    apart[4:, 1] = 0.1
    figures = policy_figures(JudgedWindow(window.scored, apart), "cacs")
    assert figures["gain/new"] == pytest.approx(-1.0)
    assert "gain/new" not in policy_figures(window, "random")


def test_halves_of_ads_are_told_apart_by_what_training_saw():
    # Hats were shown 15 times in all, shoes 2,600 times.
    assert rare_ads(hats_and_shoes()).tolist() == [True] * 4 + [False] * 4


def test_without_a_truth_there_are_no_gains():
    figures = policy_figures(JudgedWindow(hats_and_shoes(), None), "cacs")
    assert not [name for name in figures if name.startswith("gain")]
    assert figures["sctr"] == pytest.approx(0.5)


def test_values_agree_with_the_truth_of_a_simulated_log():
    log, truth, random = simulated(3, rows=60_000, error=0.05)
    figures = policy_figures(JudgedWindow(log, None), "cacs")
    for name in ("sctr", "nsctr", "snips", "dr"):
        assert figures[name] == pytest.approx(truth, abs=0.012), name
    assert figures["lift"] == pytest.approx(100 * (truth / random - 1), abs=6)


def test_a_student_that_copies_its_teacher_agrees_with_it():
    log = hats_and_shoes()
    copied = dataclasses.replace(log, selector_scores=log.teacher_scores)
    figures = model_figures(copied, np.linspace(-1, 1, 8))
    assert figures["top1"] == 1.0
    assert figures["kendall_tau"] == pytest.approx(1.0)
    assert 0 <= figures["auc"] <= 1


def test_a_window_comes_back_as_it_was_saved(window, tmp_path):
    window.save(tmp_path / "window.npz")
    again = JudgedWindow.load(tmp_path / "window.npz")
    assert np.array_equal(again.true_ctr, TRUTH, equal_nan=True)
    assert again.scored.prior == window.scored.prior
    assert policy_figures(again, "cacs") == policy_figures(window, "cacs")


def test_calibration_is_a_ratio_of_sums_by_bucket():
    truth = np.full(10_000, 0.1)
    bucket = np.repeat([1, 2], [9_000, 1_000])
    predicted = np.where(bucket == 1, 0.11, 0.1)
    found = calibration_figures(predicted, truth, np.ones(10_000), bucket)
    assert found["calibration/1-10"] == pytest.approx(1.1)
    # 100 true clicks are too few to tell.
    assert "calibration/11-100" not in found
    assert found["calibration"] == pytest.approx((0.9 * 0.11 + 0.1 * 0.1) / 0.1)
    assert found["ece"] == pytest.approx(0.9 * 0.01)


def test_the_ranker_is_judged_on_what_the_selector_chose(window):
    # The selector takes creatives 2 and 5, which the ranker gives 0.4 and 0.3.
    found = chosen_calibration(window)
    assert found["calibration"] == pytest.approx((0.4 + 0.3) / (0.3 + 0.8))


def test_an_ad_lies_in_one_half_whatever_its_list_of_the_moment():
    lists = np.array([[1, 2, 0], [1, 0, 0], [3, 4, 5], [3, 4, 5]], np.int32)
    log = dataclasses.replace(
        hats_and_shoes(),
        lists=lists,
        ad_row=np.array([1, 1, 2, 2], np.int32),
    )
    assert rare_ads(log).tolist() == [True, True, False, False]
