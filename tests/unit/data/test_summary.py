"""Counts add up, whatever pieces the log is read in."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from cacs_ray.data.summary import LogSummary, RowCounts
from cacs_ray.schema import IMPRESSIONS

NOON = datetime(2024, 1, 10, 12, tzinfo=UTC)
NOON_US = 1_704_888_000_000_000
ROW = {"request_id": "r", "request_ts": NOON, "ad_id": "a", "creative_id": "c"}
ROW |= {"slot": 0, "is_clicked": True}


def summary_of(*rows) -> LogSummary:
    table = pa.Table.from_pylist([ROW | row for row in rows], IMPRESSIONS)
    return LogSummary.of(table, RowCounts(read=len(rows), accepted=len(rows)))


def test_weights_are_honoured_and_null_is_one():
    summary = summary_of(
        {"weight": 2.5},
        {"weight": None, "is_clicked": False},
        {"weight": None, "propensity": 0.5, "policy": "uniform"},
    )
    assert summary.weight == pytest.approx(2.5 + 1 + 1)
    assert summary.clicks == pytest.approx(2.5 + 1)
    assert summary.propensity_share == pytest.approx(1 / 3)
    assert summary.rows_per_policy == {"uniform": 1}


def test_time_is_told_by_day_and_moment():
    next_day = NOON.replace(day=11)
    summary = summary_of({}, {"request_ts": next_day}, {})
    assert summary.rows_per_day == {"2024-01-10": 2, "2024-01-11": 1}
    assert summary.timeline == ((NOON_US, 2), (NOON_US + 86_400_000_000, 1))
    assert (summary.first_ts_us, summary.last_ts_us) == (
        NOON_US,
        NOON_US + 86_400_000_000,
    )


def test_pieces_merge_to_the_whole():
    rows = [
        {"request_ts": NOON.replace(day=10 + i % 3), "weight": float(i + 1)}
        for i in range(7)
    ]
    parts = [summary_of(*rows[:3]), summary_of(), summary_of(*rows[3:])]
    assert LogSummary.merged(parts) == summary_of(*rows)


def test_nothing_merges_to_nothing():
    assert LogSummary.merged([]) == LogSummary()


def test_a_long_timeline_is_thinned_without_losing_rows():
    at = np.arange(10_000) + NOON_US
    table = pa.table(
        {
            **{name: [ROW[name]] * 10_000 for name in ROW if name != "request_ts"},
            "request_ts": pa.array(at, pa.timestamp("us", "UTC")),
            **{
                name: pa.nulls(10_000, IMPRESSIONS.field(name).type)
                for name in ("weight", "policy", "propensity")
            },
        }
    )
    timeline = LogSummary.of(table, RowCounts()).timeline
    assert len(timeline) <= 2_001
    assert sum(rows for _, rows in timeline) == 10_000
    assert (timeline[0][0], timeline[-1][0]) == (at[0], at[-1])
    # Up to and including a point stand exactly the rows it says.
    point, total = timeline[1000][0], sum(rows for _, rows in timeline[:1001])
    assert total == (at <= point).sum()


def test_samples_are_few_and_short():
    rejected = pa.table({"title": ["x" * 999] * 9, "rule": ["bad_slot"] * 9})
    counts = RowCounts.of(accepted=1, rejected=rejected)
    merged = RowCounts.merged([counts, counts])
    assert (merged.read, merged.accepted, merged.rejected) == (20, 2, 18)
    assert merged.rejected_by_rule == {"bad_slot": 18}
    assert len(merged.samples["bad_slot"]) == 5
    assert len(merged.samples["bad_slot"][0]["title"]) == 120
