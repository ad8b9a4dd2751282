"""A whole turn: a market's log is learnt from, decided on, and agrees both ways."""

import json
import shutil

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cacs_ray.answers.prepare import prepare_requests
from cacs_ray.bundle import Predictor
from cacs_ray.data.logs import ValidatedLog
from cacs_ray.errors import InputError
from cacs_ray.features.store import open_encoded
from cacs_ray.golden import golden_requests, replay_golden
from cacs_ray.promises.siblings import write_broken, write_sibling
from cacs_ray.recipes.score import log_context
from cacs_ray.recipes.stages import STAGES
from cacs_ray.schema import DECISIONS, POLICIES
from cacs_ray.tracking.store import open_client
from jobs import cycle, decide, evaluate, refresh, simulate
from tests.e2e.conftest import cycle_arguments

NUM_ROWS = 200


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_run_leaves_what_the_contract_names(walk):
    for name in ("bundle/manifest.json", "report.json", "report.html", "rejects"):
        assert (walk / "run" / name).exists(), name


def test_the_report_has_every_policy_with_intervals(walk):
    report = json.loads((walk / "run" / "report.json").read_text())
    for policy in POLICIES:
        figure = report["truth"]["next_day"][policy]["true_ctr"]
        assert figure["low"] <= figure["value"] <= figure["high"]
    for policy in ("random", "popular", "thompson", "cacs", "teacher"):
        assert report["policies"][policy]["sctr"]["low"] is not None


def test_a_refresh_without_news_is_the_same_bundle_and_news_get_vectors(walk, capsys):
    bundle, market = walk / "run" / "bundle", walk / "market"
    same = ["--bundle", str(bundle), "--logs", str(market)]
    assert refresh.main([*same, "--out", str(walk / "same")]) == 0
    said = last_line(capsys)
    assert said["new_creatives"] == 0
    assert said["bundle_id"] == said["refreshed_from"]

    grown = walk / "grown"
    shutil.copytree(market, grown)
    creatives = pq.read_table(market / "creatives.parquet")
    new = creatives.slice(0, 1).to_pylist()[0] | {"creative_id": "brand new"}
    added = pa.concat_tables(
        [creatives, pa.Table.from_pylist([new], schema=creatives.schema)]
    )
    pq.write_table(added, grown / "creatives.parquet")
    changed = ["--bundle", str(bundle), "--logs", str(grown)]
    assert refresh.main([*changed, "--out", str(walk / "refreshed")]) == 0
    assert last_line(capsys)["new_creatives"] == 1
    before = Predictor.load(bundle)
    after = Predictor.load(walk / "refreshed" / "bundle")
    rows = after.catalogue.creative_row(before.catalogue.creative_ids[1:])
    assert torch.allclose(after.creative_vectors[rows], before.creative_vectors[1:])
    row = after.catalogue.creative_row(["brand new"])
    assert after.creative_vectors[row].abs().sum() > 0
    assert after.catalogue.impressions[row] == 0


def test_both_doors_give_the_same_scores(walk):
    """Training: Ray Data -> encoder -> store. Serving: a table -> `context`."""
    predictor = Predictor.load(walk / "run" / "bundle")
    log = open_encoded(walk / "run" / "work" / "features", "test")
    raw = pl.concat(
        pl.read_parquet(file)
        for file in ValidatedLog.open(walk / "run").impression_files
    )
    # The store keeps the order of the files; the last rows are the last day's.
    asked = raw.tail(NUM_ROWS).with_columns(
        pl.col("bid_micros").fill_null(1), creative_ids="candidate_creative_ids"
    )
    prepared = prepare_requests(predictor.catalogue, asked.to_arrow())
    assert prepared.rejects.num_rows == 0
    served = predictor.context(prepared.requests)
    lists = prepared.candidates.creative_lists

    order = _log_rows(log, prepared.requests, predictor)
    logged = log_context(log, order)
    for name in ("selector_scores", "teacher_scores"):
        score = getattr(predictor, name)
        np.testing.assert_allclose(
            score(served, lists), score(logged, lists), atol=1e-6, rtol=0
        )
    first = lists[:, 0]
    np.testing.assert_allclose(
        predictor.pctr(served, first), predictor.pctr(logged, first), atol=1e-6
    )


def test_the_siblings_of_a_bundle_are_whole_or_refused(walk, tmp_path):
    bundle = walk / "run" / "bundle"
    other_id = write_sibling(bundle, tmp_path / "second")
    write_broken(bundle, tmp_path / "broken")

    first, second = Predictor.load(bundle), Predictor.load(tmp_path / "second")
    assert second.bundle_id == other_id != first.bundle_id
    assert replay_golden(tmp_path / "second", second) > 0
    requests = golden_requests(first)
    prepared = prepare_requests(first.catalogue, requests)
    lists = prepared.candidates.creative_lists
    for name, asked in (("selector_scores", lists), ("pctr", lists[:, 0])):
        scores = [
            getattr(one, name)(one.context(prepared.requests), asked)[lists[:, 0] > 0]
            for one in (first, second)
        ]
        assert not np.isclose(scores[0], scores[1], rtol=1e-4)[..., :1].any(), name
    with pytest.raises(InputError, match=r"selector/model\.safetensors"):
        Predictor.load(tmp_path / "broken")


def test_an_ad_of_one_creative_is_priced_alike_before_and_after_its_choice(walk):
    predictor = Predictor.load(walk / "run" / "bundle")
    log = open_encoded(walk / "run" / "work" / "features", "test")
    per_ad = np.bincount(predictor.catalogue.creative_ad_row[1:])
    alone = np.flatnonzero(per_ad[log.ad_row] == 1)[:50]
    assert len(alone)
    context = log_context(log, alone)
    chosen = log.lists[log.list_row[alone], log.shown_index[alone]]
    np.testing.assert_allclose(
        predictor.pctr(context, np.zeros_like(chosen)),
        predictor.pctr(context, chosen),
        atol=1e-7,
    )


def _log_rows(log, requests, predictor):
    """Find the rows of the encoded log that hold these (time, ad) pairs."""
    ads = predictor.catalogue.ad_row(requests["ad_id"].to_pylist())
    times = requests["request_ts"].cast(pa.int64()).to_pylist()
    rows = {
        (int(t), int(a)): i
        for i, (t, a) in enumerate(zip(log.request_ts, log.ad_row, strict=True))
    }
    return np.array([rows[t, int(a)] for t, a in zip(times, ads, strict=True)])


def test_started_again_nothing_is_done_twice(walk, capsys, caplog):
    before = json.loads((walk / "run" / "work" / "teacher" / "stage.json").read_text())
    with caplog.at_level("INFO"):
        assert cycle.main(cycle_arguments(walk)) == 0
    reused = [r for r in caplog.messages if "done before" in r]
    assert len(reused) == 8
    after = json.loads((walk / "run" / "work" / "teacher" / "stage.json").read_text())
    assert after == before
    assert last_line(capsys)["status"] == "ok"


def test_a_stage_can_be_asked_for_by_itself(walk, capsys):
    assert cycle.main([*cycle_arguments(walk), "--until", "features"]) == 0
    line = last_line(capsys)
    assert (line["status"], line["stage"]) == ("ok", "features")
    assert line["directory"] == str(walk / "run" / "work" / "features")


def test_a_directory_has_one_run_in_mlflow_with_a_child_for_each_stage(walk):
    # However often it was started: the tests above resumed it.
    assert cycle.main(cycle_arguments(walk)) == 0
    client = open_client(f"sqlite:///{walk}/mlflow.db")
    experiment = client.get_experiment_by_name("market")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert {r.data.tags["mlflow.parentRunId"] for r in runs if r is not parent} == {
        parent.info.run_id
    }
    stages = [r.data.tags["stage"] for r in runs if r is not parent]
    assert sorted(stages) == sorted(STAGES)
    assert "lift of cacs over random" in parent.data.tags["mlflow.note.content"].lower()


@pytest.mark.parametrize("policy", POLICIES)
def test_batch_decisions_keep_the_contract(walk, tmp_path, capsys, policy):
    requests = walk / "market" / "truth" / "requests.parquet"
    asked = pq.read_table(requests).slice(0, 600)
    pq.write_table(asked, tmp_path / "requests.parquet")
    code = decide.main(
        [
            "--bundle", str(walk / "run" / "bundle"),
            "--requests", str(tmp_path / "requests.parquet"),
            "--out", str(tmp_path / "out"),
            "--policy", policy, "--slots", "2", "--epsilon", "0.1",
        ]
    )  # fmt: skip
    assert code == 0
    done = last_line(capsys)
    assert done["decisions"] + done["rejects"] == 600
    decided = pq.read_table(tmp_path / "out" / "decisions")
    assert decided.schema.names[: len(DECISIONS)] == DECISIONS.names
    rows = decided.to_pylist()
    assert all(row["creative_id"] in row["candidate_creative_ids"] for row in rows)
    assert all(0 < row["propensity"] <= 1 and 0 < row["pctr"] < 1 for row in rows)
    owner = dict(
        pl.read_parquet(walk / "market" / "creatives.parquet")
        .select("creative_id", "ad_id")
        .iter_rows()
    )
    assert all(owner[row["creative_id"]] == row["ad_id"] for row in rows)


def test_a_bundle_is_judged_on_a_log_it_never_saw(walk, tmp_path, capsys):
    other = tmp_path / "other"
    sizes = ["--set", "traffic.num_impressions=4000", "--seed", "5"]
    simulate.main(["--out", str(other), "--recipe", "smoke", *sizes])
    code = evaluate.main(
        [
            "--bundle", str(walk / "run" / "bundle"),
            "--logs", str(other),
            "--out", str(tmp_path / "judged"),
        ]
    )  # fmt: skip
    assert code == 0
    report = json.loads((tmp_path / "judged" / "report.json").read_text())
    assert report["rows"] == report["data"]["rows"]["accepted"]


def test_a_changed_byte_is_refused_by_name(walk, tmp_path, capsys):
    import shutil

    bundle = tmp_path / "bundle"
    shutil.copytree(walk / "run" / "bundle", bundle)
    weights = bundle / "selector" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    requests = walk / "market" / "truth" / "requests.parquet"
    code = decide.main(
        [
            "--bundle",
            str(bundle),
            "--requests",
            str(requests),
            "--out",
            str(tmp_path / "o"),
        ]
    )
    assert code == 1
    assert "selector/model.safetensors" in last_line(capsys)["error"]
    assert not (tmp_path / "o").exists()
