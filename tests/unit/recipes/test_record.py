"""What a run says of itself, and when it is the same run."""

import json
from pathlib import Path

from cacs_ray.recipes.config import smoke
from cacs_ray.recipes.record import (
    by_group,
    kept_figures,
    lasting_key,
    outcome_note,
    record_start,
    run_key,
)
from cacs_ray.tracking.client import NullTracker
from cacs_ray.training.stage import TrainResult

LOGS = Path("/logs")


def interval(value):
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def test_a_resumed_run_is_the_same_run(tmp_path):
    assert run_key(tmp_path, LOGS, smoke()) == run_key(tmp_path, LOGS, smoke())


def test_other_settings_other_logs_or_another_directory_are_another_run(tmp_path):
    changed = smoke().override({"teacher.loop.num_epochs": 1})
    keys = {
        run_key(tmp_path / "first", LOGS, smoke()),
        run_key(tmp_path / "second", LOGS, smoke()),
        run_key(tmp_path / "second", LOGS, changed),
        run_key(tmp_path / "second", Path("/other"), changed),
    }
    assert len(keys) == 4


def test_a_run_begins_with_every_number_and_what_is_installed(tmp_path):
    records, config = [], smoke().override({"student.temperature": "0.123456"})
    record_start(NullTracker(records.append).start_run("cycle"), config, tmp_path)
    (logged,) = [one["params"] for one in records if one["op"] == "log"]
    assert logged["student.temperature"] == "0.1235"
    files = [Path(one["path"]) for one in records if one["op"] == "artifact"]
    assert [file.name for file in files] == ["config.json", "environment.txt"]
    # Unlike a parameter, it is rounded nowhere.
    assert json.loads(files[0].read_text()) == config.model_dump(mode="json")
    assert "torch==" in files[1].read_text()


def test_the_note_has_a_row_for_each_policy_that_was_judged():
    policy = {
        "sctr": interval(0.05),
        "snips": interval(0.06),
        "lift_over_random": {"snips": interval(20.0)},
    }
    report = {
        "policies": {"random": policy, "cacs": policy},
        "truth": {"next_day": {"cacs": {"true_ctr": interval(0.07)}}},
        "level": 0.95,
        "impressions": 1000.0,
        "dataset": "market",
    }
    rows = [line for line in outcome_note(report).splitlines() if line[:2] == "| "]
    assert rows[1:] == [
        "| random | 5.00 [4.00, 6.00] | 6.00 [5.00, 7.00] | - |",
        "| cacs | 5.00 [4.00, 6.00] | 6.00 [5.00, 7.00] | 7.00 [6.00, 8.00] |",
    ]


def test_means_of_epochs_are_no_points_on_the_curve_of_batches():
    assert by_group({"train/loss": 0.5}) == {"train/loss": 0.5}
    epoch = {
        "train/loss": 0.4,
        "validation/loss": 0.6,
        "step_ms/forward": 2.0,
        "rows_per_second": 9.0,
    }
    assert by_group(epoch) == {
        "train_epoch/loss": 0.4,
        "validation/loss": 0.6,
        "wall/step_ms_forward": 2.0,
        "wall/rows_per_second": 9.0,
    }


def test_the_kept_epoch_is_counted_from_one():
    result = TrainResult(Path(), {"epoch": 0.0, "train/loss": 0.5}, 3, 100.0)
    assert kept_figures(result)["kept_epoch"] == 1


def test_a_lasting_key_is_that_of_its_file(tmp_path):
    first, second = tmp_path / "a" / "study.key", tmp_path / "b" / "study.key"
    for file in (first, second):
        file.parent.mkdir()
    assert lasting_key(first) == lasting_key(first)
    assert lasting_key(first) != lasting_key(second)
