"""What the offline report promises."""

import dataclasses
from functools import cache

import numpy as np
import pytest

from cacs_ray.errors import InputError
from cacs_ray.evaluation.offline import EvaluationSettings, evaluate
from cacs_ray.evaluation.report import plain_report
from tests.unit.evaluation.logs import hats_and_shoes, simulated

QUICK = EvaluationSettings(replicates=200)


def policies(log, settings=QUICK):
    return evaluate(log, settings)["policies"]


def value(figures, *path):
    for name in path:
        figures = figures[name]
    return figures["value"]


def test_the_figures_of_cacs_by_hand():
    # The student shows 2 and 5: rows 1, 2 (one click) and rows 6, 7 (one click).
    cacs = policies(hats_and_shoes())["cacs"]
    assert cacs["matched_impressions"] == 4
    assert cacs["matched_clicks"] == 2
    assert value(cacs, "sctr") == pytest.approx(2 / 4)
    assert value(cacs, "nsctr") == pytest.approx((1 * 4 / 2 + 1 * 4 / 2) / 8)
    assert value(cacs, "snips") == pytest.approx((2 + 3) / (2 + 2 + 3 + 3))
    assert value(cacs, "ips") == pytest.approx((2 + 3) / 8)
    # Model: .4 for the hat, .3 for the shoe; corrected where it was seen.
    seen = 2 * (0.6 - 0.4) + 3 * (0.7 - 0.3)
    assert value(cacs, "dr") == pytest.approx((4 * 0.4 + 4 * 0.3 + seen) / 8)
    # Random choice on the same lists: sCTR weighs hats by 1/2, shoes by 1/3.
    random = (1 / 2 + 2 / 3) / (4 / 2 + 4 / 3)
    lift = value(cacs, "lift_over_random", "sctr")
    assert lift == pytest.approx(100 * (0.5 / random - 1))
    lift = value(cacs, "lift_over_random", "snips")
    assert lift == pytest.approx(100 * (0.5 / (3 / 8) - 1))


def test_lists_of_indistinguishable_creatives_are_left_out_of_with_choice():
    # The student tells the shoes apart; its hats are all the same to it.
    log = hats_and_shoes()
    scores = np.where(log.lists < 3, 0.5, log.selector_scores)
    cacs = policies(dataclasses.replace(log, selector_scores=scores))["cacs"]
    choice = cacs["with_choice"]
    # Rows 6 and 7 show shoe 5, one of them was clicked; 2 of 4 shoes were.
    assert choice["share"] == 4 / 8
    assert choice["matched_clicks"] == 1
    assert value(choice, "sctr") == 1 / 2
    lift = value(choice, "lift_over_random", "sctr")
    assert lift == pytest.approx(100 * ((1 / 2) / (2 / 4) - 1))


def test_without_any_choice_there_is_no_such_slice():
    log = hats_and_shoes()
    same = dataclasses.replace(log, selector_scores=np.zeros_like(log.selector_scores))
    assert all("with_choice" not in policy for policy in policies(same).values())


def test_the_logged_policy_has_the_ctr_of_the_log():
    logged = policies(hats_and_shoes(propensity=np.full(8, 0.9)))["logged"]
    for figure in ("sctr", "nsctr", "snips", "ips", "dr"):
        assert value(logged, figure) == pytest.approx(3 / 8)
    assert logged["effective_sample_size"] == 8


def test_random_choice_has_no_lift_over_itself():
    random = policies(simulated(0)[0])["random"]
    for kind in ("sctr", "snips"):
        assert random["lift_over_random"][kind] == {"value": 0, "low": 0, "high": 0}


@pytest.mark.parametrize("name", ["random", "popular", "thompson", "cacs", "teacher"])
def test_the_decisions_of_a_policy_are_shared_out_among_the_buckets(name):
    figures = policies(hats_and_shoes())[name]
    parts = figures["by_bucket"].values()
    for total in ("share", "matched_impressions", "matched_clicks"):
        assert sum(part[total] for part in parts) == pytest.approx(figures[total])


def test_a_bucket_compares_with_random_choice_on_the_same_decisions():
    # The student's hats have been shown 5 times, its shoes 2000 times.
    buckets = policies(hats_and_shoes())["cacs"]["by_bucket"]
    assert set(buckets) == {"1-10", "1001+"}
    hats = buckets["1-10"]
    assert hats["share"] == 0.5
    assert value(hats, "snips") == 1 / 2
    # One click in four impressions of hats.
    lift = value(hats, "lift_over_random", "snips")
    assert lift == pytest.approx(100 * ((1 / 2) / (1 / 4) - 1))


def test_random_choice_counts_in_a_bucket_by_its_share_of_the_decision():
    # In the bucket 1-10: one of two hats (row 1), two of three shoes (rows 3, 4).
    counts = np.array([0.0, 5, 50, 5, 5, 50])
    log = hats_and_shoes(impressions=counts, clicks=np.zeros(6))
    part = policies(log)["random"]["by_bucket"]["1-10"]
    assert part["share"] == pytest.approx((4 / 2 + 4 * 2 / 3) / 8)
    # Shown from the bucket: rows 0 and 3 of hats, 4 and 5 of shoes, one click.
    assert value(part, "snips") == pytest.approx(1 / 4)
    # All rows, each by its share: one click on hats, two on shoes.
    random = (1 / 2 + 2 * 2 / 3) / (4 / 2 + 4 * 2 / 3)
    lift = value(part, "lift_over_random", "snips")
    assert lift == pytest.approx(100 * ((1 / 4) / random - 1))


def test_a_weight_is_as_many_rows():
    log = hats_and_shoes()
    times = np.array([3, 1, 2, 1, 4, 1, 2, 1])
    repeated = {
        field.name: np.repeat(getattr(log, field.name), times, axis=0)
        for field in dataclasses.fields(log)
        if field.name not in ("clicks", "impressions", "prior")
    }
    whole = evaluate(dataclasses.replace(log, **repeated), QUICK)
    weighted = evaluate(
        hats_and_shoes(weight=times.astype(np.float32)),
        QUICK.override({"cluster": "ad"}),
    )
    for part in ("impressions", "clicks", "ctr"):
        assert weighted[part] == pytest.approx(whole[part])
    for name, figures in weighted["policies"].items():
        for kind in ("sctr", "nsctr", "snips", "ips", "dr"):
            expected = value(whole["policies"][name], kind)
            assert value(figures, kind) == pytest.approx(expected)
        assert figures["effective_sample_size"] == pytest.approx(
            whole["policies"][name]["effective_sample_size"]
        )
    auc = weighted["ranker"]["all"]["auc"]
    assert auc == pytest.approx(whole["ranker"]["all"]["auc"])


def test_what_the_log_never_shows_is_unsupported():
    # The shoe's row 5 is never shown here, and the student wants it.
    log = hats_and_shoes(shown_index=np.array([0, 1, 1, 0, 0, 1, 0, 0]))
    report = policies(log)
    assert report["cacs"]["unsupported_share"] == pytest.approx(0.5)
    assert report["popular"]["unsupported_share"] == 0
    assert report["random"]["unsupported_share"] == pytest.approx(4 / 3 / 8)


@cache
def judged_logs(logging, runs=20):
    """The figures of cacs on some simulated logs, each with its two true CTRs."""
    settings = EvaluationSettings(replicates=100)
    judged = []
    for seed in range(runs):
        log, *truth = simulated(seed, rows=2000, logging=logging, error=0.1)
        log = dataclasses.replace(log, teacher_scores=None)
        judged.append((policies(log, settings)["cacs"], *truth))
    return judged


@pytest.mark.parametrize("logging", ["uniform", "biased"])
@pytest.mark.parametrize("figure", ["snips", "ips", "dr"])
def test_intervals_hold_the_true_value_of_the_policy(figure, logging):
    held = [
        cacs[figure]["low"] <= truth <= cacs[figure]["high"]
        for cacs, truth, _ in judged_logs(logging)
    ]
    # 95 % of 20 is 19; four standard errors are 4.
    assert sum(held) >= 15


@pytest.mark.parametrize("logging", ["uniform", "biased"])
def test_intervals_of_the_lift_hold_the_true_lift(logging):
    lifts = [
        (cacs["lift_over_random"]["snips"], 100 * (truth / random - 1))
        for cacs, truth, random in judged_logs(logging)
    ]
    held = [one["low"] <= lift <= one["high"] for one, lift in lifts]
    assert sum(held) >= 15


def test_few_ads_are_not_resampled_themselves():
    assert evaluate(hats_and_shoes(), QUICK)["cluster"] == "request"
    report = evaluate(simulated(0)[0], QUICK)
    assert (report["cluster"], report["clusters"]) == ("ad", 60)


def test_equal_seeds_give_equal_reports():
    log = simulated(0)[0]
    first, again = (plain_report(evaluate(log, QUICK)) for _ in range(2))
    assert first == again


def test_without_models_of_ctr_and_teacher_their_figures_are_left_out():
    report = evaluate(hats_and_shoes(pctr=None, teacher_scores=None), QUICK)
    assert not {"ranker", "agreement"} & set(report)
    assert "teacher" not in report["policies"]
    assert np.isnan(value(report["policies"]["cacs"], "dr"))


def test_a_policy_without_any_match_has_no_figures_and_stops_nothing():
    log = hats_and_shoes(shown_index=np.array([0, 0, 0, 0, 0, 0, 0, 0]))
    report = plain_report(evaluate(log, QUICK))
    assert report["policies"]["cacs"]["sctr"]["value"] is None
    assert report["policies"]["cacs"]["nsctr_coverage"] == 0


def test_an_empty_window_is_refused():
    with pytest.raises(InputError, match="no impressions"):
        evaluate(hats_and_shoes(label=np.zeros(0)))
