"""The Polars peer rejects rows by the rules of the log's contract."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from cacs_ray.benchmarks.market import market

SCRIPTS = Path(__file__).parents[3] / "cacs_ray" / "benchmarks"
FAULTS = {
    "bad_slot": pl.col("slot") - 1000,
    "bad_bid": pl.col("bid_micros") * 0,
    "bad_propensity": pl.col("propensity") + 1,
    "bad_weight": pl.lit(float("inf")),
    "unknown_ad": pl.col("ad_id") + "?",
    "unknown_creative": pl.col("creative_id") + "?",
    "timestamp_out_of_range": pl.col("request_ts").dt.offset_by("-60y"),
}
COLUMNS = dict(
    zip(
        FAULTS,
        ("slot", "bid_micros", "propensity", "weight", "ad_id", "creative_id"),
        strict=False,
    )
) | {"timestamp_out_of_range": "request_ts"}


@pytest.fixture
def broken_market(tmp_path):
    """A small market of which some rows break every rule that its columns can."""
    made = market(tmp_path, "small", 5000)
    file = sorted((made.root / "impressions").glob("*.parquet"))[0]
    rows = pl.read_parquet(file)
    row = pl.int_range(pl.len())
    for place, (rule, fault) in enumerate(FAULTS.items()):
        name = COLUMNS[rule]
        changed = pl.when(row == place).then(fault).otherwise(pl.col(name))
        rows = rows.with_columns(changed.cast(rows.schema[name]).alias(name))
    pl.concat([rows, rows[20:30]]).write_parquet(file)
    return made


def run(script, python, *arguments):
    done = subprocess.run(
        [python, str(SCRIPTS / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_each_fault_is_counted_under_its_rule_and_a_repeat_under_its_own(
    broken_market, tmp_path
):
    whole = json.dumps({"train": [0, 2**62]})
    place = tmp_path / "theirs"

    said = run("peer_polars.py", sys.executable, broken_market.root, place, whole)

    read = pl.scan_parquet(broken_market.root / "impressions" / "*.parquet")
    num_rows = read.select(pl.len()).collect().item()
    assert said["rejected"] == dict.fromkeys(FAULTS, 1) | {"duplicate_impression": 10}
    assert said["accepted"] == num_rows - len(FAULTS) - 10
    assert pl.read_parquet(place / "train.parquet").height == said["accepted"]
