"""Quantiles are measured values; ratios are taken block by block."""

import math

import numpy as np
import pytest

from cacs_ray.errors import InputError
from cacs_ray.promises import latency
from cacs_ray.promises.latency import (
    TURN_S,
    PairedLatency,
    latency_of,
    paired_latency,
    quantiles,
)
from cacs_ray.promises.load import Target
from tests.unit.promises.shots import shots as rows


def shots(latencies_ms, **columns):
    return rows(len(latencies_ms), latency_ms=latencies_ms, **columns)


def test_quantiles_are_values_that_were_measured():
    found = quantiles(np.arange(1.0, 1001.0))
    assert found == {"p50": 501, "p95": 951, "p99": 991, "p99.9": 1000, "max": 1000}


def test_without_an_answer_there_is_no_quantile():
    assert all(math.isnan(value) for value in quantiles(np.zeros(0)).values())
    summary = latency_of(shots([1.0, 2.0], status=503))
    assert (summary.asked, summary.answered) == (2, 0)
    assert summary.as_json()["latency_ms"]["p99"] is None


def test_refused_requests_do_not_flatter_the_latencies():
    mixed = shots([1.0, 1.0, 100.0], status=[503, 503, 200])
    assert latency_of(mixed).quantiles_ms["p50"] == 100


def test_a_late_client_is_told_apart_from_a_slow_service():
    slow_service = latency_of(shots([500.0] * 10, lag_ms=1.0))
    late_client = latency_of(shots([50.0] * 10, lag_ms=40.0))
    assert not slow_service.is_client_bound
    assert late_client.is_client_bound
    assert "CLIENT-BOUND" in str(late_client)


def test_the_ratio_is_the_median_of_the_blocks():
    first = tuple(latency_of(shots([ms] * 5)) for ms in (10.0, 40.0, 90.0))
    second = tuple(latency_of(shots([ms] * 5)) for ms in (10.0, 20.0, 30.0))
    paired = PairedLatency(first, second)
    assert paired.ratios("p50") == (10 / 10, 40 / 20, 90 / 30)
    assert paired.median_ratio("p99") == 40 / 20
    assert paired.failed == 0


def test_failures_of_either_side_are_counted():
    good, bad = latency_of(shots([1.0] * 5)), latency_of(shots([1.0] * 5, status=0))
    assert PairedLatency((good,), (bad,)).failed == 5


def test_targets_take_turns_of_a_second_on_one_schedule(monkeypatch):
    asked = []

    def run(target, arrivals, limits):
        asked.append((target, arrivals, limits.name))
        return shots([1.0] * len(arrivals))

    monkeypatch.setattr(latency, "run_load", run)
    paired, raw = paired_latency("A", "B", rate=5.0, block_s=2.0, num_blocks=2)

    assert "".join(target for target, *_ in asked) == "ABBA" * 3
    for (_, ours, _), (_, theirs, _) in zip(asked[::2], asked[1::2], strict=True):
        assert ours.tolist() == theirs.tolist()
        assert ours[1] >= 0.1  # the first one opens the connection
        assert ours.max() - ours[1] <= TURN_S
    assert len({name for *_, name in asked}) == len(asked)
    # The first block and each turn's first request do not count; turns are pooled.
    assert [one.asked for one in (*paired.first, *paired.second)] == [10] * 4
    assert raw.group_by("side", "block").len()["len"].to_list() == [10] * 4


def test_answers_with_a_fallback_are_no_whole_answers():
    replaced = latency_of(shots([1.0] * 4, fallback=["selector_late", None, "", None]))
    assert (replaced.answered, replaced.replaced) == (4, 2)
    assert PairedLatency((replaced,), (replaced,)).failed == 4


@pytest.mark.parametrize("url", ["http://10.0.0.1/v1/decide", "http://example.org/"])
def test_only_this_machine_is_ever_asked(url):
    with pytest.raises(InputError, match="not on this machine"):
        Target(url, bodies=None)
