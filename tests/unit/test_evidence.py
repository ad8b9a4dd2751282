"""What the table of evidence promises."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cacs_ray.errors import InputError
from cacs_ray.evidence import (
    EvidenceSettings,
    bucket_counts,
    evidence_table,
    read_evidence,
)
from cacs_ray.schema import IMPRESSIONS
from tests.unit.evaluation.live_test import clicks, decisions

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def impressions(*groups):
    """Return impressions of (creative, day, how many, how many clicked)."""
    rows = [
        {
            "request_id": f"{creative}-{day}-{number}",
            "request_ts": NOON + timedelta(days=day),
            "ad_id": "hat",
            "creative_id": creative,
            "slot": 0,
            "is_clicked": number < clicked,
        }
        for creative, day, shown, clicked in groups
        for number in range(shown)
    ]
    return pa.Table.from_pylist(rows, IMPRESSIONS)


def test_creatives_are_counted_and_judged():
    table = evidence_table(impressions(("wool", 0, 400, 80), ("felt", 0, 300, 6)))
    assert table["creative_id"].to_list() == ["wool", "felt"]
    assert table["impressions"].to_list() == [400, 300]
    assert table["clicks"].to_list() == [80, 6]
    assert table["ctr"].to_list() == [80 / 400, 6 / 300]
    assert table["difference"].to_list() == pytest.approx([0.18, -0.18])
    assert table["state"].to_list() == ["better", "worse"]
    assert table["change"].to_list() == [None, None]


def test_recent_is_counted_back_from_the_last_impression():
    week = EvidenceSettings(recent_buckets=7)
    shown = impressions(
        ("wool", 0, 1000, 200), ("wool", 6, 10, 1), ("wool", 13, 500, 30)
    )
    (row,) = evidence_table(shown, week).to_dicts()
    # Day 13 at noon is the last; day 6 at noon is 7 whole days before it.
    assert (row["recent_impressions"], row["recent_clicks"]) == (500, 30)
    assert row["change"] == pytest.approx(30 / 500 - 201 / 1010)
    assert row["state"] == "fatigued"
    assert (row["first_ts"], row["last_ts"]) == (NOON, NOON + timedelta(days=13))
    longer = evidence_table(shown, EvidenceSettings(recent_buckets=8))
    assert longer["recent_impressions"].to_list() == [510]


def test_buckets_hold_every_impression_once():
    shown = impressions(("wool", 0, 5, 1), ("wool", 1, 4, 2), ("felt", 1, 3, 0))
    counts = bucket_counts(shown, bucket_s=86_400.0)
    rows = counts.select("creative_id", "bucket", "impressions", "clicks").rows()
    assert rows == [("felt", 0, 3, 0), ("wool", 0, 4, 2), ("wool", 1, 5, 1)]
    for start, last in counts.select("bucket_ts", "last_ts").rows():
        assert start <= last < start + timedelta(days=1)


def test_a_row_counts_as_often_as_its_weight():
    shown = impressions(("wool", 0, 2, 1))
    heavy = shown.set_column(
        shown.schema.get_field_index("weight"), "weight", pa.array([30.0, None])
    )
    (row,) = evidence_table(heavy).to_dicts()
    assert (row["impressions"], row["clicks"]) == (31, 30)
    without = evidence_table(shown.drop_columns(["weight"]))
    assert without["impressions"].to_list() == [2]


def test_nothing_shown_is_an_empty_table():
    assert evidence_table(impressions()).height == 0


def test_it_is_read_from_the_decision_log(tmp_path):
    (tmp_path / "log").mkdir()
    other = {"request_id": "q2", "creative_id": "felt"}
    pq.write_table(decisions({}), tmp_path / "log" / "a.parquet")
    pq.write_table(
        decisions(other, {"request_id": "q3", "slot": None}),
        tmp_path / "log" / "b.parquet",
    )
    pq.write_table(clicks("q2", "q3"), tmp_path / "clicks.parquet")
    table = read_evidence(
        str(tmp_path / "log"),
        str(tmp_path / "clicks.parquet"),
        attribution_window_s=60.0,
    )
    rows = table.select("creative_id", "impressions", "clicks", "state").rows()
    assert rows == [("felt", 1, 1, "learning"), ("wool", 1, 0, "learning")]
    with pytest.raises(InputError):
        read_evidence(
            str(tmp_path / "nothing"),
            str(tmp_path / "clicks.parquet"),
            attribution_window_s=60.0,
        )
