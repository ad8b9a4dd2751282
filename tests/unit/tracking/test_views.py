"""Which runs, columns and charts MLflow's page opens with."""

import base64
import json
import zlib

from cacs_ray.tracking.client import Tracker
from cacs_ray.tracking.store import ABOUT, NOTE_TAG, open_client
from cacs_ray.tracking.views import (
    LINK,
    RUN,
    VIEW_TAG,
    packed,
    spaced,
    table_view,
    trials_view,
    view_link,
)


def unpacked(tag):
    kind, _, text = tag.partition(";")
    assert kind == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(text)))


def experiment(uri):
    return open_client(uri).get_experiment_by_name("demo")


def keep_views(uri, spool, note="Best.", about=f"{ABOUT} [Figures]({LINK})"):
    """Keep a view of one run and one of the experiment; return MLflow's run."""
    with (
        Tracker.open(uri, "demo", spool) as tracker,
        tracker.run("sweep", key="the sweep") as run,
    ):
        run.view("trials", trials_view(["val/loss"], ["dim"]), f"{note} [{LINK}]")
        run.view("runs", table_view(["test/auc"]), about, of_experiment=True)
        assert tracker.flush(60)
        run_id = tracker.mlflow_run_id(run)
    return open_client(uri).get_run(run_id)


def test_a_view_is_read_back_as_it_was():
    view = trials_view(["val/loss"], ["dim"])
    assert unpacked(packed(json.dumps(view))) == view


def test_trials_are_the_children_of_their_run_best_first():
    view = trials_view(["val/loss", "train/loss"], ["dim", "rate"])

    trials = f"tags.mlflow.parentRunId = '{RUN}' and tags.stage = 'trial'"
    assert view["searchFilter"] == trials
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`val/loss`", True)
    parallel, *curves = view["compareRunCharts"]
    assert parallel["selectedParams"] == ["dim", "rate"]
    assert parallel["selectedMetrics"] == ["val/loss"]
    assert [chart["metricKey"] for chart in curves] == ["val/loss", "train/loss"]
    sections = {section["uuid"] for section in view["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in [parallel, *curves]} == sections


def test_a_run_has_its_whole_name_before_the_figures():
    view = table_view(["test/auc"])
    name, made, *figures = view["columnOrder"]
    assert (name, made) == ("attributes.`Run Name`", "runDateAndNestInfo")
    assert figures == ["metrics.`test/auc`"] == view["selectedColumns"]
    # The longest name that a default directory gives, seven pixels a letter, and (+).
    longest = len("sweep-student: student sweep in demo")
    assert view["columnWidths"][name] >= 7 * longest + 75


def test_only_a_view_with_charts_opens_as_charts():
    assert "CHART" in view_link("1", "a", trials_view(["val/loss"], []))
    assert "CHART" not in view_link("1", "a", table_view(["val/loss"]))


def test_a_view_stands_with_the_experiment_and_its_run_leads_there(
    mlflow_uri, tmp_path
):
    run = keep_views(mlflow_uri, tmp_path / "spool")

    found = experiment(mlflow_uri)
    key = f"trials-{run.info.run_id[:8]}"
    view = unpacked(found.tags[VIEW_TAG + key])
    assert f"parentRunId = '{run.info.run_id}'" in view["searchFilter"]
    link = view_link(found.experiment_id, key, view)
    assert run.data.tags[NOTE_TAG] == f"Best. [{link}]"
    assert unpacked(found.tags[f"{VIEW_TAG}runs"]) == table_view(["test/auc"])
    assert "viewStateShareKey=runs&" in found.tags[NOTE_TAG]


def test_a_description_that_somebody_wrote_stays(mlflow_uri, tmp_path):
    keep_views(mlflow_uri, tmp_path / "spool")
    found = experiment(mlflow_uri)
    client = open_client(mlflow_uri)
    client.set_experiment_tag(found.experiment_id, NOTE_TAG, "Ours since May.")

    keep_views(mlflow_uri, tmp_path / "spool")

    assert experiment(mlflow_uri).tags[NOTE_TAG] == "Ours since May."


def test_only_tables_are_set_apart():
    text = "# a | b\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    gap = "\N{NO-BREAK SPACE}" * 3
    wanted = f"# a | b\n\n| a{gap} | b |\n|---|---|\n| 1{gap} | 2 |"
    assert spaced(text) == wanted
