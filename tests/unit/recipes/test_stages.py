"""What stages promise: done once, redone when what they were made from changed."""

import pytest

from cacs_ray.recipes.stages import PEAK_MEMORY, WALL, Stages
from cacs_ray.tracking.client import NullTracker


@pytest.fixture
def run():
    with NullTracker().run("test") as run:
        yield run


def counted(calls, name, figures=None):
    def body(directory, run):
        calls.append(name)
        (directory / "made").write_text(name)
        return figures or {"rows": 3}

    return body


def test_a_finished_stage_is_not_run_again(tmp_path, run):
    calls = []
    for _ in range(2):
        stages = Stages(tmp_path, run)
        stages.stage("first", {"a": 1}, counted(calls, "first"))
    assert calls == ["first"]
    assert stages.summaries["first"]["rows"] == 3


def test_a_changed_input_runs_the_stage_and_all_after_it(tmp_path, run):
    calls = []
    for value in (1, 2):
        stages = Stages(tmp_path, run)
        stages.stage("first", {"a": value}, counted(calls, "first"))
        stages.stage("second", {}, counted(calls, "second"), after=("first",))
        stages.stage("beside", {}, counted(calls, "beside"))
    assert calls == ["first", "second", "beside", "first", "second"]


def test_a_stage_that_dies_leaves_nothing_and_runs_again(tmp_path, run):
    def dying(directory, run):
        (directory / "half").write_text("half")
        raise RuntimeError("killed")

    stages = Stages(tmp_path, run)
    with pytest.raises(RuntimeError, match="killed"):
        stages.stage("first", {}, dying)
    assert list(tmp_path.iterdir()) == []
    calls = []
    stages.stage("first", {}, counted(calls, "first"))
    assert calls == ["first"]


def test_what_a_stage_left_elsewhere_must_still_be_there(tmp_path, run):
    calls, elsewhere = [], tmp_path / "bundle"

    def body(directory, run):
        calls.append("made")
        elsewhere.write_text("bundle")
        return {}

    for _ in range(2):
        Stages(tmp_path, run).stage("bundle_stage", {}, body, leaves=(elsewhere,))
        elsewhere.unlink()
    assert calls == ["made", "made"]


def test_a_run_that_was_broken_off_says_where_it_goes_on(tmp_path, run, caplog):
    def said_by(*names):
        caplog.clear()
        with caplog.at_level("INFO", logger="cacs_ray.recipes.stages"):
            stages = Stages(tmp_path, run)
            for name in names:
                stages.stage(name, {}, counted([], name))
        return [m for m in caplog.messages if "goes on" in m]

    assert said_by("first", "second") == []
    assert said_by("first", "second", "third", "fourth") == [
        "finished before: first, second; the run goes on with third"
    ]
    assert said_by("first", "second", "third", "fourth") == []


def test_what_a_stage_costs_is_logged_with_it(tmp_path):
    written = []

    with NullTracker(written.append).run("test") as run:
        Stages(tmp_path, run).stage("first", {}, counted([], "first"))

    (cost,) = [one["metrics"] for one in written if "metrics" in one]
    assert cost[f"{WALL}/stage_seconds"] >= 0
    assert cost[PEAK_MEMORY] > 10
