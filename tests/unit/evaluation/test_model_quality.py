"""What the figures of ranker and student promise."""

import numpy as np
import pytest

from cacs_ray.evaluation.model_quality import agreement_report, ranker_report
from cacs_ray.metrics.ranking import auc
from tests.unit.evaluation.logs import hats_and_shoes, simulated


def test_all_is_every_logged_impression():
    log = hats_and_shoes()
    report = ranker_report(log)["all"]
    predicted = np.array([0.2, 0.4, 0.4, 0.2, 0.1, 0.2, 0.3, 0.3])
    assert report["auc"] == pytest.approx(auc(log.label, predicted))
    assert report["calibration"]["ratio"] == pytest.approx(predicted.sum() / 3)


def test_chosen_stands_for_the_decisions_of_the_selector():
    # Matches: two hats at .4 weighing 2 each, two shoes at .3 weighing 3 each.
    report = ranker_report(hats_and_shoes())["chosen"]
    expected = (4 * 0.4 + 6 * 0.3) / (2 + 3)
    assert report["calibration"]["ratio"] == pytest.approx(expected)


def test_the_best_of_noisy_scores_promises_too_much_and_it_shows():
    log, _, _ = simulated(0, rows=20_000, error=0.1)
    report = ranker_report(log)
    assert report["all"]["calibration"]["ratio"] == pytest.approx(1.0, abs=0.15)
    assert report["chosen"]["calibration"]["ratio"] > 1.25


def test_unknown_visitors_are_not_one_user():
    # Rows 0 and 5 are unknown visitors, in the wrong order; users 1 and 3 in the right.
    predicted = np.array([0.9, 0.4, 0.3, 0.2, 0.1, 0.1, 0.4, 0.3])
    log = hats_and_shoes(pctr=np.repeat(predicted[:, None], 3, axis=1))
    assert ranker_report(log)["all"]["gauc_user"] == 1


def test_buckets_are_those_of_the_shown_creative():
    by_bucket = ranker_report(hats_and_shoes())["all"]["by_bucket"]
    clicks = {name: one["calibration"]["clicks"] for name, one in by_bucket.items()}
    assert clicks == {"1-10": 1, "11-100": 1, "101-1000": 0, "1001+": 1}


def test_agreement_is_weighed_by_impressions():
    # Student and teacher agree on the hat and not on the shoe.
    weight = np.array([3.0] * 4 + [1.0] * 4)
    report = agreement_report(hats_and_shoes(weight=weight))
    assert report["all"]["top1"] == pytest.approx(12 / 16)
    # Shoe: student 0 < .5 < 2, teacher 0 < 2 < 9 with two creatives swapped.
    assert report["all"]["kendall_tau"] == pytest.approx((12 * 1 + 4 * 1 / 3) / 16)
    assert report["by_list_length"]["2"]["top1"] == 1
    assert report["by_list_length"]["3-4"]["top1"] == 0
    assert np.isnan(report["by_list_length"]["9+"]["top1"])
    assert report["by_bucket"]["1001+"]["impressions"] == 4


@pytest.mark.parametrize(
    ("report", "field"), [(ranker_report, "pctr"), (agreement_report, "teacher_scores")]
)
def test_a_report_without_its_scores_is_refused(report, field):
    with pytest.raises(ValueError, match=field):
        report(hats_and_shoes(**{field: None}))
