"""Swaps are judged by what they cost, by whole answers, and by real loads."""

import json

import pytest

from cacs_ray.promises.swap_judges import (
    halves,
    judge_steady,
    judge_swap_times,
    judge_swaps,
    judge_whole_answers,
)
from tests.unit.promises.shots import counts, shots


def test_swaps_may_cost_a_fifth_of_the_p99_between_them():
    away, before = shots(10, latency_ms=10.0), shots(10, latency_ms=100.0)
    assert judge_steady(shots(10, latency_ms=12.0), away, before).is_kept
    slow = judge_steady(shots(10, latency_ms=12.1), away, before)
    assert not slow.is_kept
    assert "minutes before 100.0 ms" in slow.figure
    assert not judge_steady(shots(10, status=0), away, before).is_kept


def test_the_half_after_each_swap_is_told_from_the_rest():
    asked = shots(60, scheduled_s=[float(second) for second in range(60)])
    # Half a second sooner: what waits at the moment of a swap waits longer.
    after, away = halves(asked, [10.4, 41.0], 3.0)
    assert after["scheduled_s"].to_list() == [10.0, 11.0, 12.0, 41.0, 42.0, 43.0]
    assert after.height + away.height == asked.height


@pytest.mark.parametrize(
    ("asked", "loads", "failed", "is_kept"),
    [
        ([("swap", True), ("roll back", True)], [True, True], 0, True),
        ([("swap", False), ("roll back", True)], [True, True], 1, False),
        # What was held already was no swap worth the name.
        ([("swap", True), ("swap", True)], [True, False], 1, False),
    ],
)
def test_two_swaps_are_two_whose_bundles_had_to_be_loaded(
    asked, loads, failed, is_kept
):
    assert counts(judge_swaps(asked, loads, 2)) == (failed, len(asked), is_kept)


def test_swaps_that_did_not_take_place_are_counted():
    once = [("swap", True), ("roll back", True)]
    assert counts(judge_swaps(once, [True], 2)) == (1, 3, False)
    assert counts(judge_swaps(once[1:], [], 2)) == (2, 3, False)


def test_a_swap_that_lasts_into_the_time_between_is_told():
    assert counts(judge_swap_times([1.0, 3.0], 3.0)) == (0, 2, True)
    assert counts(judge_swap_times([1.0, 3.1], 3.0)) == (1, 2, False)
    assert not judge_swap_times([], 3.0).is_kept


def placed(pctr, creative="c1"):
    return json.dumps([{"creative_id": creative, "pctr": pctr, "slot": 0}])


EXPECTED = {
    "r1": {0: placed(0.1), 1: placed(0.2)},
    "r2": {0: placed(0.15), 1: placed(0.25, "c2")},
}


@pytest.mark.parametrize(
    ("releases", "placements", "mixed"),
    [
        (["r1", "r1", "r2", "r2"], [0.1, 0.2, 0.15, (0.25, "c2")], 0),
        (["r1", "r1", "r2", "r2"], [0.1, 0.2, 0.1500000001, (0.25, "c2")], 0),
        # The score of one release with the stamp of the other, or with its choice.
        (["r1", "r2", "r2", "r2"], [0.1, 0.2, 0.15, (0.25, "c2")], 1),
        (["r1", "r1", "r2", "r2"], [0.1, 0.2, 0.15, (0.25, "c1")], 1),
        (["r1", "r1", "r2", "r3"], [0.1, 0.2, 0.15, (0.25, "c2")], 1),
    ],
)
def test_an_answer_is_of_one_release_from_end_to_end(releases, placements, mixed):
    made = [placed(*(one if isinstance(one, tuple) else (one,))) for one in placements]
    answers = shots(4, answered_as=releases, placements=made)
    assert counts(judge_whole_answers(answers, EXPECTED)) == (mixed, 4, mixed == 0)


def test_fallbacks_and_refusals_are_not_compared():
    answers = shots(
        3,
        status=[200, 200, 503],
        answered_as=["r1", "r1", None],
        placements=[placed(0.1), placed(0.9), None],
        fallback=[None, "ranker_late", None],
    )
    verdict = judge_whole_answers(answers, EXPECTED)
    assert counts(verdict) == (0, 1, True)
    assert "1 fallbacks" in verdict.figure
