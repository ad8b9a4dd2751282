"""A study of two seeds: from nothing to its tables, and on from where it stopped."""

import json

import pytest

from cacs_ray.tracking.store import open_client
from jobs import study


@pytest.fixture(scope="module")
def done(ray_local, tmp_path_factory):
    """A small study and the arguments that it was made with."""
    root = tmp_path_factory.mktemp("study")
    arguments = [
        "--out", str(root / "study"),
        "--recipe", "smoke",
        "--seeds", "0", "1",
        "--sources", "uniform",
        "--variants", "no_dropout", "gate_later", "content_only",
        "--coverage", "25",
        "--tracking-uri", f"sqlite:///{root}/mlflow.db",
        "--set", "features.text_encoder=hashed-ngrams",
    ]  # fmt: skip
    assert study.main(arguments) == 0
    return root, arguments


def tables(done):
    return json.loads((done[0] / "study" / "study.json").read_text())


def test_every_variant_has_a_mean_an_interval_and_a_paired_difference(done):
    summary = tables(done)["sources"]["uniform"]["summary"]
    for variant in ("no_dropout", "gate_later", "content_only"):
        gain = summary[variant]["gain"]
        assert gain["low"] <= gain["value"] <= gain["high"]
        assert gain["seeds"] == gain["less"]["seeds"] == 2
    full = summary["full"]["gain"]["value"]
    less = summary["no_dropout"]["gain"]["less"]["value"]
    assert summary["no_dropout"]["gain"]["value"] == pytest.approx(full + less)


def test_every_way_of_sharing_is_judged(done):
    rankers = tables(done)["sources"]["uniform"]["rankers"]
    assert set(rankers) >= {"own", "frozen", "fine_tuned", "joint"}
    assert all(0.5 < one["auc"]["value"] < 1 for one in rankers.values())


def test_orders_are_compared_on_the_same_requests(done):
    cascade = tables(done)["sources"]["uniform"]["cascade"]
    assert set(cascade["orders"]) >= {"random", "post_rank", "cacs", "parallel"}
    every = cascade["orders"]["rank_every"]["predicted_ecpm"]["value"]
    assert every >= cascade["orders"]["cacs"]["predicted_ecpm"]["value"]
    assert cascade["regret"]["predicted_ecpm"]["value"] >= 0


def test_intervals_of_off_policy_values_hold_the_truth_mostly(done):
    covered = tables(done)["coverage"]
    assert covered["uniform"]["snips"]["covered"] >= 0.8
    assert covered["greedy"]["refused"] == 1.0


def test_the_page_and_the_markdown_say_the_same(done):
    assert "torch==" in (done[0] / "study" / "environment.txt").read_text()
    config = json.loads((done[0] / "study" / "config.json").read_text())
    assert config["config"] == tables(done)["config"]
    assert config["cycle"]["features"]["text_encoder"] == "hashed-ngrams"
    assert config["market"]["name"] == "smoke"
    page = (done[0] / "study" / "study.html").read_text()
    text = (done[0] / "study" / "study.md").read_text()
    for title in ("Variants", "Cold start", "Orders of selection", "off-policy"):
        assert title.lower() in page.lower()
    row = next(line for line in text.splitlines() if line.startswith("| no_dropout"))
    for cell in row.strip("| ").split(" | ")[1:]:
        assert cell in page


def test_a_study_that_goes_on_trains_nothing_again(done):
    kept = sorted((done[0] / "study" / "units").rglob("*.json"))
    before = {path: path.stat().st_mtime_ns for path in kept}
    first = (done[0] / "study" / "study.json").read_bytes()
    assert study.main(done[1]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert (done[0] / "study" / "study.json").read_bytes() == first


def test_other_settings_are_refused_where_a_study_stands(done, capsys):
    files = [done[0] / "study" / name for name in ("config.json", "study.json")]
    before = [file.read_bytes() for file in files]
    assert study.main([*done[1], "student.loop.num_epochs=1"]) == 1
    error = capsys.readouterr().err
    assert "[same_study]" in error
    assert "cycle.student.loop.num_epochs was 2, now 1" in error
    assert [file.read_bytes() for file in files] == before
    assert run_of(done).info.status == "FINISHED"


def run_of(done):
    """Return the study's own run."""
    client = open_client(f"sqlite:///{done[0]}/mlflow.db")
    experiments = {one.name: one for one in client.search_experiments()}
    (run,) = client.search_runs(
        [experiments["study study"].experiment_id], "tags.stage = 'study'"
    )
    return run


def test_each_variant_is_a_run_of_its_own(done):
    client = open_client(f"sqlite:///{done[0]}/mlflow.db")
    experiments = {one.name: one for one in client.search_experiments()}
    runs = client.search_runs([experiments["study study"].experiment_id])
    variants = [r.data.tags.get("variant") for r in runs]
    # Also after the study was started again.
    assert variants.count("no_dropout") == 2


def test_what_does_not_go_together_is_one_line(ray_local, tmp_path, capsys):
    assert study.main(["--out", str(tmp_path / "s"), "--sources", "logs"]) == 1
    assert "[logs_of_source]" in capsys.readouterr().err
