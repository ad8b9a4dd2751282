"""What a sweep keeps to, whatever Ray Tune makes of it."""

import os
from types import SimpleNamespace

import pytest

from cacs_ray.tracking.client import NullTracker
from tune import sweep
from tune.sweep import SweepSettings, TrialRuns, run_sweep

SETTINGS = SweepSettings(num_trials=3, metric="loss", max_epochs=1, steps_per_epoch=1)


@pytest.fixture
def environment(monkeypatch):
    """The variables of this process, as they are while Tune runs."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TUNE_")}
    monkeypatch.setattr(os, "environ", kept)
    return kept


@pytest.fixture
def fake_tune(monkeypatch, environment):
    """A Tune that goes on and returns, and what it saw."""
    fake = SimpleNamespace(results=["a", "b", "c"], seen={})

    def fit():
        fake.seen.update(environment)
        return fake.results

    tuner = SimpleNamespace(
        can_restore=lambda _: True,
        restore=lambda *_, **__: SimpleNamespace(fit=fit),
    )
    monkeypatch.setattr(sweep.tune, "Tuner", tuner)
    return fake


def run(out):
    return run_sweep(lambda _: None, {}, {}, SETTINGS, out)


def test_a_sweep_with_fewer_trials_than_asked_for_is_an_error(fake_tune, tmp_path):
    assert run(tmp_path) == ["a", "b", "c"]
    fake_tune.results = ["a", "b"]
    with pytest.raises(RuntimeError, match="2 of 3 trials; the same command goes on"):
        run(tmp_path)


def test_ctrl_c_is_not_left_to_tune(fake_tune, tmp_path):
    run(tmp_path)
    assert fake_tune.seen["TUNE_DISABLE_SIGINT_HANDLER"] == "1"


def test_tune_writes_its_state_down_every_second(fake_tune, tmp_path):
    run(tmp_path)
    assert fake_tune.seen["TUNE_GLOBAL_CHECKPOINT_S"] == "1"


def test_trials_of_a_sweep_that_is_broken_off_are_killed():
    records, callback = [], TrialRuns()
    tracker = NullTracker(records.append)
    trials = [SimpleNamespace(trial_id=name, config={"dim": 8}) for name in ("a", "b")]

    def broken_off(parent):
        with TrialRuns.reporting_to(tracker, parent):
            for trial in trials:
                callback.on_trial_start(0, trials, trial)
            callback.on_trial_complete(0, trials, trials[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off(tracker.start_run("sweep"))

    started = {one["run"]: one["name"] for one in records if one["op"] == "start"}
    ended = [(started[r["run"]], r["status"]) for r in records if r["op"] == "end"]
    assert ended == [("trial-000 dim=8", "FINISHED"), ("trial-001 dim=8", "KILLED")]
