"""How latencies that were taken in turns become a ratio, and a ratio a refusal."""

import time
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from cacs_ray.evaluation import replica
from cacs_ray.evaluation.gate import judge
from cacs_ray.evaluation.gate_measured import MeasuredRules
from cacs_ray.evaluation.replica import latency_ratios
from serve.arguments import AppArgs


def latencies(slower, seed=0):
    """Draw 400 latencies of two releases; busy moments hit both, at random."""
    rng = np.random.default_rng(seed)
    times = rng.gamma(4.0, 0.25, (2, 400))
    times *= np.where(rng.random((2, 400)) < 0.05, 30.0, 1.0)
    return times * np.array([[slower], [1.0]])


@pytest.mark.parametrize("seed", range(5))
def test_a_busy_machine_makes_no_release_surely_slower(seed):
    ratios = latency_ratios(latencies(1.0, seed))
    for one in ratios.values():
        assert one["low"] < 1 < one["high"]


def test_a_release_twice_as_slow_is_surely_slower():
    ratios = latency_ratios(latencies(2.0))
    assert ratios["p50"]["value"] == pytest.approx(2, rel=0.2)
    assert ratios["p50"]["low"] > 1.3


def opened(delay_s):
    """An open bundle whose selector sleeps."""

    def selector_scores(_, lists):
        time.sleep(delay_s)
        return np.zeros(lists.shape)

    return SimpleNamespace(
        context=lambda requests: SimpleNamespace(ad_row=np.ones(len(requests), int)),
        catalogue=SimpleNamespace(lists=lambda ads, _: np.ones((len(ads), 2), int)),
        selector_scores=selector_scores,
        pctr=lambda _, creatives: np.zeros(len(creatives)),
    )


@pytest.fixture
def measure(monkeypatch):
    """Measure bundles by the seconds they take, without files; return what fails."""
    requests = pa.table(
        {"request_id": ["a", "a", "b"], "request_ts": pa.array([1, 1, 2], "int64")}
    )
    load = SimpleNamespace(load=lambda path: opened(float(path)))
    monkeypatch.setattr(replica, "Predictor", load)
    monkeypatch.setattr(replica, "replay_golden", lambda *_: requests.num_rows)
    monkeypatch.setattr(replica, "read_requests", lambda *_: requests)
    monkeypatch.setattr(replica.torch, "set_num_threads", lambda _: None)

    def latency_checks_that_fail(*delays_s, rounds):
        told = replica.measure([str(delay) for delay in delays_s], rounds)
        checks = judge({}, measured={"replica": told})["checks"]
        asked = [check for check in checks if check["name"].startswith("latency")]
        assert asked
        return {check["name"] for check in asked if not check["passed"]}

    return latency_checks_that_fail


def test_a_slow_bundle_is_refused_beside_a_quick_champion(measure):
    assert "latency_p50_ratio" in measure(0.004, 0.001, rounds=20)
    assert "latency_p50_ratio" not in measure(0.001, 0.004, rounds=20)


def test_a_first_release_that_cannot_keep_the_services_budget_is_refused(measure):
    assert measure(0.06, rounds=3) == {"latency_p50_ms"}
    assert MeasuredRules().max_p50_ms == AppArgs.model_fields["budget_ms"].default
