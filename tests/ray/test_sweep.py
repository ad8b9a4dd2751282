"""What a sweep promises: N trials, N runs, nothing twice, failures shown."""

from ray import tune

from cacs_ray.tracking.client import Tracker
from cacs_ray.tracking.store import open_client
from tune.sweep import SweepSettings, TrialRuns, run_sweep

SETTINGS = SweepSettings(
    num_trials=3, search="tpe", metric="val/loss", max_epochs=2, steps_per_epoch=1
)
SPACE = {"model.width": tune.uniform(0.0, 1.0), "kind": tune.choice(["a", "b"])}
DEFAULTS = {"model.width": 0.25, "kind": "a"}


def sweep_once(train, uri, out):
    """Run the sweep with a tracker of its own, as a process would."""
    with (
        Tracker.open(uri, "demo", out / "tracking") as tracker,
        tracker.run("sweep", key="the sweep") as parent,
        TrialRuns.reporting_to(tracker, parent),
    ):
        return run_sweep(train, SPACE, DEFAULTS, SETTINGS, out)


def child_runs(uri):
    """Return the runs below the sweep's."""
    client = open_client(uri)
    experiment = client.get_experiment_by_name("demo")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.info.run_name == "sweep"]
    children = [
        run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    assert len(runs) == 1 + len(children)
    return sorted(children, key=lambda run: run.info.run_name)


def test_a_sweep_goes_on_after_a_failure_with_the_same_runs(
    ray_local, mlflow_uri, tmp_path
):
    is_repaired = tmp_path / "is_repaired"

    def train(values):
        # As the real training does: what was reported is not done again.
        done = tmp_path / tune.get_context().get_trial_id()
        for step in (1, 2)[int(done.read_text()) if done.exists() else 0 :]:
            if step == 2 and values["model.width"] == 0.25 and not is_repaired.exists():
                raise RuntimeError("the default breaks")
            done.write_text(str(step))
            tune.report({"val/loss": values["model.width"] / step, "step": step})

    first = sweep_once(train, mlflow_uri, tmp_path)
    before = child_runs(mlflow_uri)

    assert [result.error is not None for result in first].count(True) == 1
    assert before[0].data.params["model.width"] == "0.25"
    assert [run.info.status for run in before].count("FAILED") == 1
    assert [run.info.run_name[:9] for run in before] == [
        "trial-000",
        "trial-001",
        "trial-002",
    ]

    is_repaired.touch()
    second = sweep_once(train, mlflow_uri, tmp_path)
    after = child_runs(mlflow_uri)

    assert [result.error for result in second] == [None] * 3
    assert {run.info.run_id for run in after} == {run.info.run_id for run in before}
    assert {run.info.status for run in after} == {"FINISHED"}
    broken = after[0]
    curve = open_client(mlflow_uri).get_metric_history(broken.info.run_id, "val/loss")
    assert [(point.step, point.value) for point in curve] == [(1, 0.25), (2, 0.125)]


def test_a_trial_that_a_kill_made_tune_forget_leaves_no_run(
    ray_local, mlflow_uri, tmp_path
):
    with (
        Tracker.open(mlflow_uri, "demo", tmp_path / "tracking") as tracker,
        tracker.run("sweep", key="the sweep") as parent,
    ):
        tracker.start_run(
            "trial-000 of before", parent, {"stage": "trial"}, key=f"{parent.id}/lost"
        )

    def train(_):
        tune.report({"val/loss": 1.0, "step": 2})

    sweep_once(train, mlflow_uri, tmp_path)

    runs = child_runs(mlflow_uri)
    assert [run.info.run_name[:9] for run in runs] == [
        "trial-000",
        "trial-001",
        "trial-002",
    ]
    assert {run.info.status for run in runs} == {"FINISHED"}
