"""Runs side by side, from a store as cycles and sweeps leave it."""

import json
from dataclasses import replace

import pytest

from cacs_ray.errors import InputError
from cacs_ray.evaluation.paired import paired_sums
from cacs_ray.evaluation.report import plain_report
from cacs_ray.recipes.compare import compare
from cacs_ray.tracking.client import Tracker
from tests.unit.evaluation.logs import simulated


def report_of(seed, *, is_bad=False):
    """Return what matters here of a report of the simulated window of a seed."""
    value = 0.0 if is_bad else 10.0
    around = {"value": value, "low": value - 5, "high": value + 5}
    cacs = {"lift_over_random": {"snips": around}, "sctr": around}
    log, _, _ = simulated(seed)
    if is_bad:
        log = replace(log, selector_scores=-log.selector_scores)
    return {
        "policies": {"cacs": cacs},
        "ranker": {"all": {"auc": 0.7}},
        "paired": paired_sums(log),
    }


@pytest.fixture
def keep_cycle(mlflow_uri, tmp_path):
    """Leave a finished cycle with its stages and its report in MLflow."""

    def keep(name, learning_rate, report):
        path = tmp_path / name / "report.json"
        path.parent.mkdir()
        path.write_text(json.dumps(plain_report(report)))
        spool = tmp_path / name / "spool"
        with (
            Tracker.open(mlflow_uri, "demo", spool) as tracker,
            tracker.run(name, tags={"stage": "cycle"}) as run,
        ):
            run.params({"student": {"learning_rate": learning_rate}, "seed": 1})
            with run.child("student", {"stage": "student"}) as child:
                child.metrics({"wall/stage_seconds": 12.5}, step=0)
                child.metrics({"wall/rows_per_second": 4000.0}, step=0)
                child.metrics({"wall/peak_memory_mb": 812.0}, step=0)
            run.artifact(path)

    return keep


def test_what_differs_what_came_out_and_what_it_cost(
    mlflow_uri, keep_cycle, tmp_path, capsys
):
    keep_cycle("good", 0.01, report_of(0))
    keep_cycle("bad", 0.1, report_of(0, is_bad=True))

    line = compare(["good", "bad"], mlflow_uri, tmp_path / "out")

    compared = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert compared["params"] == {"student.learning_rate": ["0.01", "0.1"]}
    lift = compared["metrics"]["lift over random, SNIPS, %"]
    assert [one["value"] for one in lift] == [10.0, 0.0]
    assert [one["value"] for one in compared["metrics"]["AUC"]] == [0.7, 0.7]
    assert compared["cost"]["seconds of student"] == [12.5, 12.5]
    assert compared["cost"]["rows/s of student"] == [4000.0, 4000.0]
    assert compared["cost"]["peak memory of student, MB"] == [812.0, 812.0]
    (pair,) = line["paired"]
    assert pair["figures"]["snips_lift_cacs"]["is_sure"]
    assert pair["figures"]["snips_lift_cacs"]["value"] < 0
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "student.learning_rate" in page
    assert ">worse</td>" in page
    assert "worse" in capsys.readouterr().err


def test_other_windows_are_not_compared_in_silence(mlflow_uri, keep_cycle, tmp_path):
    keep_cycle("monday", 0.01, report_of(0))
    keep_cycle("tuesday", 0.01, report_of(1))
    line = compare(["monday", "tuesday"], mlflow_uri, tmp_path / "out")
    assert line["paired"] == [{"status": "not the same window", "figures": {}}]
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "judged different impressions" in page
    assert "None: the runs were set alike." in page


def test_a_sweep_shows_its_outcome_and_its_trials_together(
    mlflow_uri, keep_cycle, tmp_path, capsys
):
    keep_cycle("cycle", 0.01, report_of(0))
    with (
        Tracker.open(mlflow_uri, "demo", tmp_path / "spool") as tracker,
        tracker.run("sweep", tags={"stage": "sweep"}) as run,
    ):
        for number in range(3):
            with run.child(f"trial-{number}", {"stage": "trial"}):
                pass
        run.metrics({"summary/best_click_loss": 0.25})
        run.metrics({"summary/test_gain_nats": 0.002})
        run.metrics({"summary/test_gain_nats_low": 0.001})
        run.metrics({"summary/test_gain_nats_high": 0.004})
        run.metrics({"summary/lone": 1.0, "summary/lone_low": 0.5})
    line = compare(["sweep", "cycle"], mlflow_uri, tmp_path / "out")
    compared = json.loads((tmp_path / "out" / "compare.json").read_text())
    best = compared["metrics"]["summary/best_click_loss"]
    assert (best[0]["value"], best[1]) == (0.25, None)
    gain = {"value": 0.002, "low": 0.001, "high": 0.004}
    assert compared["metrics"]["summary/test_gain_nats"] == [gain, None]
    # A bound without its other end is a figure of its own.
    named = [name for name in compared["metrics"] if name.endswith(("low", "high"))]
    assert named == ["summary/lone_low"]
    assert "0.002000 [0.001000, 0.004000]" in " ".join(capsys.readouterr().err.split())
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "0.001000 to 0.004000" in page
    assert compared["cost"]["trials"] == [3, None]
    assert line["paired"][0]["status"] == "no sums"


def loops(rpm, **arms):
    """Return what matters here of live.json; greedy is the yardstick of its arms."""
    names = ("true_ctr", "rpm", "regret", "gain")
    figures = {name: around(0.5, 0.1) for name in names}
    less = {name: {**figures[name], "less": around(0.1, 0.05)} for name in names}
    return {
        "arms": {"greedy": {**figures, "rpm": around(rpm, 1)}, **arms, "epsilon": less}
    }


def around(value, half):
    return {"value": value, "low": value - half, "high": value + half, "seeds": 3}


def test_closed_loops_are_compared_arm_by_arm(mlflow_uri, tmp_path, capsys):
    oracle = {"true_ctr": {**around(0.9, 0.1), "less": around(0.4, 0.1)}}
    for name, live in (("one", loops(20.0)), ("other", loops(30.0, oracle=oracle))):
        path = tmp_path / name / "live.json"
        path.parent.mkdir()
        path.write_text(json.dumps(live))
        with (
            Tracker.open(mlflow_uri, "live", tmp_path / name / "spool") as tracker,
            tracker.run(name, tags={"stage": "live"}) as run,
        ):
            run.artifact(path)

    compare(["one", "other"], mlflow_uri, tmp_path / "out")

    metrics = json.loads((tmp_path / "out" / "compare.json").read_text())["metrics"]
    rpm = [{"value": v, "low": v - 1, "high": v + 1} for v in (20.0, 30.0)]
    assert metrics["greedy: RPM"] == rpm
    for figure in ("true CTR", "RPM", "regret", "gain", "RPM less greedy"):
        assert [one["low"] for one in metrics[f"epsilon: {figure}"]] == [
            0.05 if "less" in figure else 0.4
        ] * 2
    assert metrics["oracle: true CTR"][0] is None
    assert "oracle: true CTR less greedy" not in metrics
    assert "greedy: RPM less greedy" not in metrics
    assert "30 [29, 31]" in capsys.readouterr().err
    assert "29.0000 to 31.0000" in (tmp_path / "out" / "compare.html").read_text()


def test_a_name_that_is_not_there_or_not_alone_is_refused(
    mlflow_uri, keep_cycle, tmp_path
):
    keep_cycle("only", 0.01, report_of(0))
    with pytest.raises(InputError, match="no run has the id or name 'other'"):
        compare(["only", "other"], mlflow_uri)
    with pytest.raises(InputError, match="two runs or more"):
        compare(["only"], mlflow_uri)
    for spool in ("a", "b"):
        with (
            Tracker.open(mlflow_uri, "demo", tmp_path / spool) as tracker,
            tracker.run("twice"),
        ):
            pass
    with pytest.raises(InputError, match="2 runs are called 'twice'"):
        compare(["only", "twice"], mlflow_uri)
