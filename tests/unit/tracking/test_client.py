"""What the code that does the work may rely on when it logs."""

import pytest

from cacs_ray.tracking.client import NullTracker, Tracker
from cacs_ray.tracking.store import open_client


@pytest.fixture
def records():
    return []


@pytest.fixture
def tracker(records):
    return NullTracker(records.append)


def runs_by_name(uri):
    """Return name -> run of the experiment "demo"."""
    client = open_client(uri)
    experiment = client.get_experiment_by_name("demo")
    runs = client.search_runs([experiment.experiment_id])
    return {run.info.run_name: run for run in runs}


def test_a_run_that_raises_is_failed(tracker, records):
    with pytest.raises(ZeroDivisionError), tracker.run("cycle"):
        1 / 0  # noqa: B018
    assert (records[-1]["op"], records[-1]["status"]) == ("end", "FAILED")


def test_an_interrupted_run_is_killed(tracker, records):
    with pytest.raises(KeyboardInterrupt), tracker.run("cycle"):
        raise KeyboardInterrupt
    assert records[-1]["status"] == "KILLED"


def test_a_child_names_its_parent(tracker, records):
    with tracker.run("cycle") as parent, parent.child("student"):
        pass
    started = [record for record in records if record["op"] == "start"]
    assert started[1]["parent"] == started[0]["run"]


def test_numbers_that_are_none_are_left_out(tracker, records):
    with tracker.run("cycle") as run:
        run.metrics({"a": float("nan"), "b": float("inf"), "recall@10": 1}, step=2)
    (logged,) = [record for record in records if record["op"] == "log"]
    assert logged["metrics"] == {"recall_at_10": 1.0}
    assert logged["step"] == 2


def test_everything_arrives_in_mlflow(mlflow_uri, tmp_path):
    report = tmp_path / "report.json"
    report.write_text("{}")
    with Tracker.open(mlflow_uri, "demo", tmp_path / "spool") as tracker:
        with tracker.run("cycle", tags={"stage": "cycle"}) as cycle:
            cycle.params({"optimizer": {"lr": 0.001}})
            cycle.dataset("market", source="logs", digest="f" * 64)
            cycle.artifact(report)
            with cycle.child("student") as student:
                for step in range(3):
                    student.metrics({"val/auc": step / 4}, step)
        student_id = tracker.mlflow_run_id(student)

    runs = runs_by_name(mlflow_uri)
    client = open_client(mlflow_uri)
    assert student_id == runs["student"].info.run_id
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["cycle"].data.params == {"optimizer.lr": "0.001"}
    assert runs["cycle"].inputs.dataset_inputs[0].dataset.digest == "f" * 12
    parent = runs["student"].data.tags["mlflow.parentRunId"]
    assert parent == runs["cycle"].info.run_id
    curve = client.get_metric_history(student_id, "val/auc")
    assert [(point.step, point.value) for point in curve] == [
        (0, 0.0),
        (1, 0.25),
        (2, 0.5),
    ]
    files = client.list_artifacts(runs["cycle"].info.run_id)
    assert [file.path for file in files] == ["report.json"]
    assert list((tmp_path / "spool").iterdir()) == []


def test_resumed_work_continues_its_run(mlflow_uri, tmp_path):
    for step in range(2):
        with (
            Tracker.open(mlflow_uri, "demo", tmp_path / "spool") as tracker,
            tracker.run("cycle", key="out/cycle") as run,
        ):
            run.metrics({"train/loss": 1.0}, step)
            mlflow_id = tracker.mlflow_run_id(run)

    assert list(runs_by_name(mlflow_uri)) == ["cycle"]
    curve = open_client(mlflow_uri).get_metric_history(mlflow_id, "train/loss")
    assert [point.step for point in curve] == [0, 1]


def test_children_that_are_not_kept_are_deleted(mlflow_uri, tmp_path):
    with (
        Tracker.open(mlflow_uri, "demo", tmp_path / "spool") as tracker,
        tracker.run("sweep") as sweep,
        tracker.run("other") as other,
    ):
        for parent, stage, name in [
            (sweep, "trial", "known"),
            (sweep, "trial", "forgotten"),
            (sweep, "teacher", "shared"),
            (other, "trial", "of another"),
        ]:
            tracker.start_run(name, parent, {"stage": stage}, key=name)
        sweep.keep_children("trial", ["known"])
        # Also when a delivery that was broken off is made once more.
        sweep.keep_children("trial", ["known"])
    assert set(runs_by_name(mlflow_uri)) == {
        "sweep", "other", "known", "shared", "of another"
    }  # fmt: skip


def test_what_mlflow_refuses_stops_nothing(mlflow_uri, tmp_path):
    with (
        Tracker.open(mlflow_uri, "demo", tmp_path / "spool") as tracker,
        tracker.run("cycle") as run,
    ):
        run.params({"seed": 1})
        assert tracker.flush()
        run.params({"seed": 2})
        assert tracker.flush()
        run.metrics({"train/loss": 1.0})

    assert runs_by_name(mlflow_uri)["cycle"].data.params == {"seed": "1"}
    assert runs_by_name(mlflow_uri)["cycle"].data.metrics == {"train/loss": 1.0}


def test_records_wait_while_mlflow_is_away_and_arrive_once(mlflow_uri, tmp_path):
    spool = tmp_path / "spool"
    away = f"sqlite:///{tmp_path}/a-file-not-a-directory/mlflow.db"
    (tmp_path / "a-file-not-a-directory").write_text("")
    tracker = Tracker.open(away, "demo", spool)
    with tracker.run("cycle") as run:
        run.metrics({"train/loss": 0.5}, step=7)
    assert not tracker.close(timeout_s=0.2)
    assert len(list(spool.glob("*.jsonl"))) == 1

    assert Tracker.open(mlflow_uri, "demo", spool).close()

    run = runs_by_name(mlflow_uri)["cycle"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"train/loss": 0.5}
    assert list(spool.iterdir()) == []
