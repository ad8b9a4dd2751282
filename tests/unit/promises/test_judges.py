"""Each judge keeps what is kept, and its negative control breaks it."""

import pytest

from cacs_ray.promises.judges import (
    judge_accepted,
    judge_fallback,
    judge_in_flight,
    judge_log,
    judge_memory,
    judge_no_error,
    judge_ratio,
    judge_recovery,
    judge_refused,
    judge_survival,
    judge_tries,
)
from cacs_ray.promises.latency import PairedLatency, latency_of
from tests.unit.promises.shots import counts, shots


def test_one_error_breaks_the_load():
    assert counts(judge_no_error("load", shots(10))) == (0, 10, True)
    assert counts(judge_no_error("load", shots(10, status=[200] * 9 + [503]))) == (
        1,
        10,
        False,
    )
    assert not judge_no_error("load", shots(0)).is_kept


def test_accepted_requests_may_take_twice_the_nominal_p99():
    assert judge_accepted(shots(10, latency_ms=20.0), nominal_p99_ms=10).is_kept
    slow = judge_accepted(shots(10, latency_ms=20.1), nominal_p99_ms=10)
    assert counts(slow) == (10, 10, False)


def test_a_service_that_accepts_nothing_does_not_stay_quick():
    assert not judge_accepted(shots(10, status=503), nominal_p99_ms=10).is_kept


def paired(first_ms, second_ms, **columns):
    blocks = ([first_ms] * 4, [second_ms] * 4)
    first, second = (
        tuple(latency_of(shots(10, latency_ms=ms, **columns)) for ms in side)
        for side in blocks
    )
    return PairedLatency(first, second)


@pytest.mark.parametrize(("first_ms", "is_kept"), [(10.4, True), (10.6, False)])
def test_selection_may_take_a_twentieth_longer_than_ranking(first_ms, is_kept):
    verdict = judge_ratio("p50", paired(first_ms, 10.0), "p50")
    assert counts(verdict) == (0, 80, is_kept)


def test_the_interval_of_the_blocks_stands_beside_their_median():
    blocks = [paired(10.0 + tenth / 10, 10.0) for tenth in range(5)]
    mixed = PairedLatency(
        tuple(one.first[0] for one in blocks), tuple(one.second[0] for one in blocks)
    )
    figure = judge_ratio("p50", mixed, "p50").figure
    assert figure.startswith("median ratio 1.020 95 % [1.00, 1.04] of 5 blocks")
    one = PairedLatency(mixed.first[:1], mixed.second[:1])
    assert "[?] of 1 blocks" in judge_ratio("p50", one, "p50").figure


def test_requests_that_fail_do_not_make_selection_free():
    status = [200] * 9 + [503]
    assert counts(judge_ratio("p50", paired(10.0, 10.0, status=status), "p50")) == (
        8,
        80,
        False,
    )


REFUSED = {"status": 503, "has_retry_after": True, "latency_ms": 49.0}


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, 0),
        ({"has_retry_after": False}, 4),
        ({"status": [503, 503, 503, 500]}, 1),
        ({"status": [503, 503, 503, 0]}, 1),
        ({"latency_ms": 51.0}, 4),
    ],
)
def test_refusals_are_quick_and_say_when_to_come_again(change, failed):
    verdict = judge_refused(shots(4, **{**REFUSED, **change}))
    assert counts(verdict) == (failed, 4, failed == 0)


def test_a_late_client_does_not_make_a_refusal_slow():
    late = shots(4, **{**REFUSED, "latency_ms": 90.0}, lag_ms=60.0)
    assert judge_refused(late).is_kept


@pytest.mark.parametrize(("bad_s", "is_kept"), [(0, True), (5, True), (7, False)])
def test_recovery_is_the_first_good_second(bad_s, is_kept):
    status = [503] * bad_s + [200] * (10 - bad_s)
    after = shots(10, scheduled_s=[float(s) for s in range(10)], status=status)
    verdict = judge_recovery(after, nominal_p99_ms=10)
    assert verdict.is_kept is is_kept
    assert verdict.figure.startswith(f"{bad_s} s")


def test_a_second_of_lower_rungs_is_no_good_one():
    seconds = [float(n // 20) for n in range(60)]
    fallback = ["ranker_spared"] * 20 + ["ranker_spared"] * 3 + [None] * 17
    fallback += ["ranker_spared"] * 2 + [None] * 18
    after = shots(60, scheduled_s=seconds, fallback=fallback)
    assert judge_recovery(after, nominal_p99_ms=10).figure.startswith("2 s")


def test_a_service_that_stays_slow_never_recovers():
    after = shots(3, scheduled_s=[0.0, 1.0, 2.0], latency_ms=30.0)
    verdict = judge_recovery(after, nominal_p99_ms=10)
    assert "inf" in verdict.figure
    assert not verdict.is_kept


def test_work_in_flight_and_silence_both_break_the_promise():
    assert judge_in_flight({"Gateway": 0.0, "Ranker": 0.0}).is_kept
    assert counts(judge_in_flight({"Gateway": 2.0, "Ranker": 0.0})) == (1, 2, False)
    assert not judge_in_flight({}).is_kept


def test_first_tries_and_second_ones_are_counted_apart():
    both = shots(2000, first_status=[0] + [200] * 1999)
    first, second = judge_tries(both, "")
    assert counts(first) == (1, 2000, True)
    assert counts(second) == (0, 2000, True)

    many = shots(2000, first_status=[500] * 3 + [200] * 1997)
    assert not judge_tries(many, "")[0].is_kept

    lost = shots(2000, status=[0] + [200] * 1999, first_status=[0] + [200] * 1999)
    assert counts(judge_tries(lost, "")[1]) == (1, 2000, False)


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, 0),
        ({"fallback": None}, 5),
        ({"fallback": "ranker_failed"}, 5),
        ({"fallback": "selector_late,ranker_late"}, 0),
        ({"latency_ms": 101.0}, 5),
        ({"latency_ms": 101.0, "lag_ms": 5.0}, 0),
        ({"status": [200] * 4 + [500]}, 1),
    ],
)
def test_a_broken_stage_is_answered_in_time_and_named(change, failed):
    rows = shots(5, **{"fallback": "selector_failed", **change})
    verdict = judge_fallback("selector error", rows, "selector", deadline_ms=100)
    assert counts(verdict) == (failed, 5, failed == 0)


@pytest.mark.parametrize(("latency_ms", "failed"), [(75.0, 0), (75.1, 5)])
def test_a_short_deadline_allows_for_the_way_and_says_how_much(latency_ms, failed):
    rows = shots(5, fallback="ranker_late", latency_ms=latency_ms)
    verdict = judge_fallback("slow", rows, "ranker", deadline_ms=50, allowance_ms=25)
    assert counts(verdict) == (failed, 5, failed == 0)
    assert "50 + 25 ms" in verdict.limit


@pytest.mark.parametrize(
    ("logged", "dropped", "failed"),
    [
        ({"a": 3, "b": 3}, 0, 0),
        ({"a": 3, "b": 3, "unanswered": 3}, 0, 0),
        ({"a": 3}, 0, 3),
        ({"a": 3, "b": 2}, 0, 1),
        ({"a": 3}, 3, 0),
        ({"a": 6, "b": 3}, 0, 3),
        ({"a": 6, "b": 3}, 3, 3),
        ({}, 0, 6),
    ],
)
def test_decisions_are_logged_exactly_once_or_counted(logged, dropped, failed):
    verdict = judge_log("log", ["a", "b"], logged, num_ads=3, dropped=dropped)
    assert counts(verdict) == (failed, 6, failed == 0)


def test_without_an_answer_the_log_shows_nothing():
    assert not judge_log("log", [], {}, num_ads=3).is_kept


def test_growth_counts_from_after_the_warm_up():
    warming = [100.0] * 20 + [200.0] * 80
    verdict = judge_memory({"Gateway": warming}, 1000)
    assert counts(verdict) == (0, 1, True)


def test_a_leak_is_found():
    leaking = [100.0 + n for n in range(100)]
    verdict = judge_memory({"Gateway": leaking, "Ranker": [1.0] * 100}, 1000)
    assert counts(verdict) == (1, 2, False)


@pytest.mark.parametrize("series", [{}, {"Gateway": []}, {"Gateway": [1.0]}])
def test_memory_that_was_not_weighed_is_not_kept(series):
    assert not judge_memory(series, 1000).is_kept


@pytest.mark.parametrize(
    ("outcomes", "restarted", "failed", "is_kept"),
    [
        ([("a", 422), ("b", 200), ("c", 503)], [], 0, True),
        ([("a", 500), ("b", 200)], [], 1, False),
        ([("a", 0), ("b", 200)], [], 1, False),
        ([("a", 200)], ["Gateway"], 0, False),
        ([], [], 0, False),
    ],
)
def test_crashes_and_hangs_are_told(outcomes, restarted, failed, is_kept):
    verdict = judge_survival("x", outcomes, restarted=restarted)
    assert counts(verdict) == (failed, len(outcomes), is_kept)
