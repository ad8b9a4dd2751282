"""The peers of the preprocessing do what we do, row by row."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from cacs_ray.benchmarks.agreement import our_rows, their_rows
from cacs_ray.benchmarks.market import market
from cacs_ray.benchmarks.ours_preprocessing import WINDOWS, preprocess
from cacs_ray.data.dataset import read_dataset

SCRIPTS = Path(__file__).parents[2] / "cacs_ray" / "benchmarks"
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
    made = market(tmp_path, "smoke", 5000)
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


@pytest.mark.ray
def test_polars_accepts_rejects_and_encodes_the_same_rows(
    ray_local, broken_market, tmp_path
):
    ours = preprocess(read_dataset(broken_market.described), tmp_path)

    theirs = run(
        "peer_polars.py",
        sys.executable,
        broken_market.root,
        tmp_path / "theirs",
        json.dumps(ours["bounds"]),
    )

    assert ours["rejected"]["duplicate_impression"] == 10
    assert set(FAULTS) < set(ours["rejected"])
    assert theirs["rejected"] == ours["rejected"]
    assert theirs["accepted"] == ours["accepted"]
    for window in WINDOWS:
        assert our_rows(tmp_path, window).equals(
            their_rows(tmp_path / "theirs", window)
        )
