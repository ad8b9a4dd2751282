"""The table of evidence on creatives, from impressions or from the decision log.

Free of Ray and torch, so that a service can show it. The rule: `docs/evidence.md`.
"""

from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.data.feedback import join_feedback, read_table
from cacs_ray.metrics.evidence import STATES, Bounds, judge_creatives
from cacs_ray.schema import CLICKS, DECISIONS, Column

_COUNTS: Final = ("impressions", "clicks")
_BUCKET: Final = "bucket"
_BUCKET_TS: Final = "bucket_ts"


class EvidenceSettings(Config):
    """Which part of the published rule may be set; the defaults are published."""

    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Probability that anything is wrongly said of an ad."""
    min_impressions: int = Field(default=100, ge=1)
    """On each side of a comparison."""
    bucket_s: float = Field(default=86_400.0, gt=0)
    """Length of a bucket of time."""
    recent_buckets: int = Field(default=7, ge=1)
    """The last buckets are recent, those before are earlier."""


def evidence_table(
    impressions: pa.Table, settings: EvidenceSettings | None = None
) -> pl.DataFrame:
    """Return what is known of each creative that was shown.

    Args:
        impressions: in `schema.IMPRESSIONS`, any order; `weight` is honoured and
            may be absent.
        settings: alpha, least evidence, buckets.

    Returns:
        By ad, then the most shown first: the ids of ad and creative; `impressions`,
        `clicks`; `ctr`, `difference` (to the ad's other creatives) and `change`
        (recent less earlier), each with `_low` and `_high`, null where unknown;
        `recent_impressions`, `recent_clicks`; `first_ts`, `last_ts`; `state`, one
        of `metrics.evidence.STATES`.
    """
    settings = settings or EvidenceSettings()
    counts = bucket_counts(impressions, bucket_s=settings.bucket_s)
    is_recent = pl.col(_BUCKET) < settings.recent_buckets
    creatives = (
        counts.group_by(Column.AD_ID, Column.CREATIVE_ID)
        .agg(
            *(pl.col(name).sum() for name in _COUNTS),
            *(
                pl.col(name).filter(is_recent).sum().alias(f"recent_{name}")
                for name in _COUNTS
            ),
            pl.col("first_ts").min(),
            pl.col("last_ts").max(),
        )
        .sort(
            [Column.AD_ID, "impressions", Column.CREATIVE_ID],
            descending=[False, True, False],
        )
    )
    total = creatives.select(_COUNTS).to_numpy()
    recent = creatives.select(f"recent_{name}" for name in _COUNTS).to_numpy()
    ad = creatives[Column.AD_ID].rank("dense").to_numpy().astype(np.int64) - 1
    evidence = judge_creatives(
        ad,
        total - recent,
        recent,
        alpha=settings.alpha,
        min_impressions=float(settings.min_impressions),
    )
    return creatives.with_columns(
        *_columns("ctr", evidence.ctr),
        *_columns("difference", evidence.difference),
        *_columns("change", evidence.change),
        pl.Series("state", evidence.state, dtype=pl.Enum(STATES)),
    )


def bucket_counts(impressions: pa.Table, *, bucket_s: float) -> pl.DataFrame:
    """Count impressions and clicks of each creative by bucket of time.

    Args:
        impressions: as of `evidence_table`.
        bucket_s: length of a bucket; the last one ends with the last impression.

    Returns:
        The ids of ad and creative, `bucket` (0 = the last one, rising into the
        past), `bucket_ts` (its start), `impressions`, `clicks`, `first_ts`,
        `last_ts`; rows with impressions only.
    """
    ts = pl.col(Column.REQUEST_TS)
    names = [Column.AD_ID, Column.CREATIVE_ID, Column.REQUEST_TS, Column.IS_CLICKED]
    rows = pl.DataFrame(impressions.select(names))
    weight = (
        pl.Series(impressions[Column.WEIGHT].cast(pa.float64()).fill_null(1.0))
        if Column.WEIGHT in impressions.column_names
        else pl.Series([1.0]).new_from_index(0, rows.height)
    )
    step = round(bucket_s * 1e6)
    age_us = ts.max().dt.epoch("us") - ts.dt.epoch("us")
    start_us = ts.max().dt.epoch("us") + 1 - (pl.col(_BUCKET) + 1) * step
    return (
        rows.with_columns(weight.alias("impressions"), (age_us // step).alias(_BUCKET))
        .with_columns(
            (pl.col("impressions") * pl.col(Column.IS_CLICKED)).alias("clicks"),
            start_us.cast(pl.Datetime("us", "UTC")).alias(_BUCKET_TS),
        )
        .group_by(Column.AD_ID, Column.CREATIVE_ID, _BUCKET, _BUCKET_TS)
        .agg(
            *(pl.col(name).sum() for name in _COUNTS),
            ts.min().alias("first_ts"),
            ts.max().alias("last_ts"),
        )
        .sort(Column.AD_ID, Column.CREATIVE_ID, _BUCKET)
    )


def read_evidence(
    decisions: str,
    clicks: str,
    *,
    attribution_window_s: float,
    settings: EvidenceSettings | None = None,
) -> pl.DataFrame:
    """Return `evidence_table` of a decision log and its clicks.

    Args:
        decisions: file or directory of decisions.
        clicks: file or directory of clicks.
        attribution_window_s: seconds in which a click counts, > 0.
        settings: as of `evidence_table`.

    Raises:
        InputError: nothing is there, or it is damaged, as of `read_table`.
    """
    impressions = join_feedback(
        read_table(decisions, DECISIONS),
        read_table(clicks, CLICKS),
        attribution_window_s=attribution_window_s,
    )
    return evidence_table(impressions, settings)


def _columns(name: str, bounds: Bounds) -> list[pl.Series]:
    """Return a value and its bounds as columns, NaN as null."""
    parts = {name: bounds.value, f"{name}_low": bounds.low, f"{name}_high": bounds.high}
    return [pl.Series(key, values).fill_nan(None) for key, values in parts.items()]
