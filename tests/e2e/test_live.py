"""The closed loop of two arms over two days: from nothing to its report, and on."""

import json

import pyarrow.parquet as pq
import pytest

from cacs_ray.tracking.store import open_client
from jobs import live

ARMS = ("greedy", "epsilon")


@pytest.fixture(scope="module")
def done(ray_local, tmp_path_factory):
    """The directory of a small comparison, and the arguments that it was made with."""
    root = tmp_path_factory.mktemp("live")
    arguments = [
        "--out", str(root / "live"),
        "--days", "2",
        "--seeds", "0",
        "--arms", *ARMS,
        "--tracking-uri", f"sqlite:///{root}/mlflow.db",
        "--set", "teacher.loop.num_epochs=1", "student.loop.num_epochs=1",
        "--set-market", "population.num_ads=20", "population.num_users=100",
        "traffic.num_impressions=3000", "traffic.num_next_requests=200",
    ]  # fmt: skip
    assert live.main(arguments) == 0
    return root / "live", arguments


def loop(done, arm):
    return done[0] / "seeds" / "seed0" / "loops" / arm


def days_of(done, arm):
    files = sorted(loop(done, arm).glob("day-*/day.json"))
    return [json.loads(file.read_text())["value"] for file in files]


def test_each_arm_has_its_figures_beside_the_oracle(done):
    report = json.loads((done[0] / "live.json").read_text())
    assert set(report["arms"]) == {*ARMS, "oracle"}
    for arm in ARMS:
        one = report["arms"][arm]
        assert 0 < one["regret"]["value"] < 1
        assert one["true_ctr"]["value"] < report["arms"]["oracle"]["true_ctr"]["value"]
        assert len(report["curves"]["cumulative"][arm]) == 2
    assert report["arms"]["oracle"]["gain"]["value"] == pytest.approx(1)
    assert (done[0] / "live.html").read_text().count("<svg") == 4
    assert "torch==" in (done[0] / "environment.txt").read_text()
    config = json.loads((done[0] / "config.json").read_text())
    assert config == {name: report[name] for name in ("config", "market", "cycle")}
    assert config["cycle"]["teacher"]["loop"]["num_epochs"] == 1


def test_a_loop_learns_from_what_it_showed_itself(done):
    for arm in ARMS:
        parts = sorted((loop(done, arm) / "logs" / "impressions").glob("day-0[34]*"))
        assert len(parts) == 2
        for day, part in zip(days_of(done, arm), parts, strict=True):
            log = pq.read_table(part)
            assert log.num_rows == day["joined"] == day["figures"]["impressions"]
            assert sum(log["is_clicked"].to_pylist()) == day["clicks"]
        explored = min(log["propensity"].to_pylist()) < 1
        assert explored == (arm == "epsilon")


def test_the_next_day_is_served_by_what_the_gate_let_pass(done):
    for arm in ARMS:
        first, second = days_of(done, arm)
        assert second["served"] == first["champion"]
        assert first["champion"] == ("day-03" if first["is_promoted"] else "first")
        release = pq.read_table(loop(done, arm) / "day-04" / "decisions")["release"]
        bundle = (
            loop(done, arm) / "day-03" / "bundle"
            if first["is_promoted"]
            else done[0] / "seeds" / "seed0" / "first" / "run" / "bundle"
        )
        manifest = json.loads((bundle / "manifest.json").read_text())
        assert set(release.to_pylist()) == {manifest["bundle_id"]}


def test_new_creatives_are_served_on_the_day_they_are_born(done):
    creatives = pq.read_table(loop(done, "greedy") / "logs" / "creatives.parquet")
    born = {
        one["creative_id"]: one["live_from_ts"]
        for one in creatives.to_pylist()
        if one["live_from_ts"]
    }
    decisions = pq.read_table(loop(done, "greedy") / "day-04" / "decisions")
    rows = decisions.select(["request_ts", "candidate_creative_ids"]).to_pylist()
    today = min(row["request_ts"] for row in rows).date()
    seen = {c for row in rows for c in row["candidate_creative_ids"]}
    assert any(born[c].date() == today for c in seen if c in born)
    for row in rows:
        named = row["candidate_creative_ids"]
        assert all(born[c] <= row["request_ts"] for c in named if c in born)


def test_a_comparison_that_goes_on_plays_nothing_again(done):
    kept = sorted(done[0].rglob("day*.json"))
    before = {path: path.stat().st_mtime_ns for path in kept}
    first = (done[0] / "live.json").read_bytes()
    assert live.main(done[1]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert (done[0] / "live.json").read_bytes() == first


def test_other_settings_are_refused_and_change_nothing(done, capsys):
    files = [done[0] / name for name in ("config.json", "live.json", "live.key")]
    before = [file.read_bytes() for file in files]
    # A seed that was not played yet comes first: it must not be begun either.
    other = ["--seeds", "1", "0", "--set", "teacher.loop.num_epochs=2"]
    assert live.main([*done[1], *other]) == 1
    error = capsys.readouterr().err
    assert "cycle.teacher.loop.num_epochs was 1, now 2" in error
    assert "[same_study]" in error
    assert [file.read_bytes() for file in files] == before
    assert not (done[0] / "seeds" / "seed1").exists()
    client = open_client(f"sqlite:///{done[0].parent}/mlflow.db")
    experiments = {one.name: one for one in client.search_experiments()}
    (run,) = client.search_runs(
        [experiments["live live"].experiment_id], "tags.stage = 'live'"
    )
    assert run.info.status == "FINISHED"
