"""What is known of each creative of an ad, for people: in training, and live.

The rule is the published one of `metrics.evidence`; nothing is judged here.
"""

import logging
import math
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import cachetools
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from cacs_ray.data.feedback import join_feedback
from cacs_ray.evidence import EvidenceSettings, evidence_table
from cacs_ray.features.catalogue import Catalogue
from cacs_ray.metrics.evidence import judge_creatives
from cacs_ray.schema import CLICKS, DECISIONS, Column
from serve.release import Release, microseconds

ATTRIBUTION_WINDOW_S: Final = 86_400.0
"""A click counts this long after its request."""
MAX_LOG_ROWS: Final = 2_000_000
"""Rows of each log that are read; the newest files first, whole files."""
MAX_LOG_FILES: Final = 2_000
KEPT_S: Final = 15.0
"""What was read of the logs is shown so long before they are read again."""

_logger = logging.getLogger(__name__)


class CreativeEvidence(BaseModel):
    """One creative; numbers are null where nothing is known."""

    creative_id: str
    is_live: bool
    impressions: float
    clicks: float
    ctr: float | None
    low: float | None
    """Of the interval of the CTR."""
    high: float | None
    state: str
    reason: str


class EvidenceTable(BaseModel):
    """The creatives of one ad as one source saw them, most shown first."""

    source: str
    """`training` or `live`."""
    note: str
    ctr: float | None
    """Of all of them together."""
    creatives: list[CreativeEvidence]


class AdEvidence(BaseModel):
    """All that is known of the creatives of one ad."""

    ad_id: str
    tables: list[EvidenceTable]
    rule: dict[str, str]
    """State -> when it holds."""


class EvidenceSource:
    """Training counts of a release, and the logs of the service.

    Args:
        decision_log: directory of decisions, None = there is none.
        click_log: directory of clicks, None = there is none.
        settings: of the published rule.
    """

    def __init__(
        self,
        decision_log: str | None = None,
        click_log: str | None = None,
        settings: EvidenceSettings | None = None,
    ) -> None:
        self._decisions, self._clicks = decision_log, click_log
        self._settings = settings or EvidenceSettings()
        self._lock = threading.Lock()
        self._kept: cachetools.TTLCache[str, pl.DataFrame] = cachetools.TTLCache(
            maxsize=1, ttl=KEPT_S
        )

    def of_ad(self, release: Release, ad_id: str) -> AdEvidence:
        """Return the evidence on an ad that the release knows; may read logs."""
        live = _live_creatives(release, ad_id)
        return AdEvidence(
            ad_id=ad_id,
            tables=[
                self._training(release.catalogue, ad_id, live),
                self._live(ad_id, live),
            ],
            rule=rule_in_words(self._settings),
        )

    def _training(
        self, catalogue: Catalogue, ad_id: str, live: frozenset[str]
    ) -> EvidenceTable:
        """Judge what the release was trained on; it is not split by time."""
        (ad_row,) = catalogue.ad_row([ad_id])
        rows = np.flatnonzero(catalogue.creative_ad_row == ad_row)
        counts = np.stack([catalogue.impressions[rows], catalogue.clicks[rows]], 1)
        evidence = judge_creatives(
            np.zeros(len(rows), np.int64),
            counts,
            np.zeros_like(counts),
            alpha=self._settings.alpha,
            min_impressions=float(self._settings.min_impressions),
        )
        shown = [
            {
                Column.CREATIVE_ID: catalogue.creative_ids[row],
                "impressions": counts[n, 0],
                "clicks": counts[n, 1],
                "ctr": evidence.ctr.value[n],
                "ctr_low": evidence.ctr.low[n],
                "ctr_high": evidence.ctr.high[n],
                "difference": evidence.difference.value[n],
                "difference_low": evidence.difference.low[n],
                "difference_high": evidence.difference.high[n],
                "state": evidence.state[n],
            }
            for n, row in enumerate(rows.tolist())
        ]
        note = "Counts of the live release; without times, so nothing can be fatigued."
        return self._table("training", note, shown, live)

    def _live(self, ad_id: str, live: frozenset[str]) -> EvidenceTable:
        if self._decisions is None or self._clicks is None:
            note = "The service keeps no decision log or no click log."
            return EvidenceTable(source="live", note=note, ctr=None, creatives=[])
        try:
            table = self._read_logs(self._decisions, self._clicks)
        except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as error:
            _logger.warning("live evidence: %s: %s", type(error).__name__, error)
            note = "The logs of the service cannot be read now."
            return EvidenceTable(source="live", note=note, ctr=None, creatives=[])
        shown = table.filter(pl.col(Column.AD_ID) == ad_id).to_dicts()
        if not shown:
            note = "None of its creatives is in the log yet."
            return EvidenceTable(source="live", note=note, ctr=None, creatives=[])
        since = min(row["first_ts"] for row in shown)
        note = (
            f"Shown since {since:%Y-%m-%d %H:%M} UTC; a click counts for "
            f"{ATTRIBUTION_WINDOW_S / 3600:g} hours."
        )
        return self._table("live", note, shown, live)

    def _read_logs(self, decision_log: str, click_log: str) -> pl.DataFrame:
        """Return the table of all ads; read at most once in `KEPT_S` seconds."""
        with self._lock:
            kept = self._kept.get(decision_log)
            if kept is None:
                shown = pl.col(Column.SLOT).is_not_null()
                joined = join_feedback(
                    _read(decision_log, DECISIONS, shown),
                    _read(click_log, CLICKS, pl.lit(True)),
                    attribution_window_s=ATTRIBUTION_WINDOW_S,
                )
                kept = evidence_table(joined, self._settings)
                self._kept[decision_log] = kept
            return kept

    def _table(
        self,
        source: str,
        note: str,
        shown: list[dict[str, Any]],
        live: frozenset[str],
    ) -> EvidenceTable:
        creatives = [
            CreativeEvidence(
                creative_id=row[Column.CREATIVE_ID],
                is_live=row[Column.CREATIVE_ID] in live,
                impressions=row["impressions"],
                clicks=row["clicks"],
                ctr=_known(row["ctr"]),
                low=_known(row["ctr_low"]),
                high=_known(row["ctr_high"]),
                state=str(row["state"]),
                reason=_reason(row, self._settings),
            )
            for row in shown
        ]
        creatives.sort(key=lambda one: -one.impressions)
        impressions = sum(one.impressions for one in creatives)
        clicks = sum(one.clicks for one in creatives)
        ctr = clicks / impressions if impressions else None
        return EvidenceTable(source=source, note=note, ctr=ctr, creatives=creatives)


def rule_in_words(settings: EvidenceSettings) -> dict[str, str]:
    """Return when each state holds, the first that does; see `docs/evidence.md`."""
    days = settings.recent_buckets * settings.bucket_s / 86_400
    return {
        "fatigued": f"Its CTR of the last {days:g} days of the log is lower than its "
        "own before, and it was not worse then.",
        "worse": "Its CTR is lower than that of the ad's other creatives together.",
        "better": "Its CTR is higher than that of the ad's other creatives together.",
        "learning": "Too little evidence to tell; it may be as good as the others or "
        f"not. Both sides of a comparison need {settings.min_impressions} "
        "impressions, and the interval of their difference (level "
        f"{1 - settings.alpha:.0%}, corrected for the number of creatives) must not "
        "hold zero.",
    }


def _live_creatives(release: Release, ad_id: str) -> frozenset[str]:
    """Return the creatives of an ad that may be shown now."""
    catalogue = release.catalogue
    now = np.array([microseconds(datetime.now(UTC))])
    (listed,) = catalogue.lists(catalogue.ad_row([ad_id]), now)
    return frozenset(catalogue.creative_ids[row] for row in listed[listed > 0])


def _read(directory: str, schema: pa.Schema, kept: pl.Expr) -> pa.Table:
    """Read rows of the newest files of a log, in the contract's columns."""
    files = list(_newest(Path(directory)))
    if not files:
        return schema.empty_table()
    rows = pl.scan_parquet(files, missing_columns="insert", extra_columns="ignore")
    return rows.filter(kept).select(schema.names).collect().to_arrow().cast(schema)


def _newest(directory: Path) -> Iterator[Path]:
    """List files, newest first, until so many rows are told."""
    with os.scandir(directory) as entries:
        files = [e for e in entries if e.name.endswith(".parquet") and e.name[0] != "."]
    files.sort(key=lambda entry: -entry.stat().st_mtime)
    left = MAX_LOG_ROWS
    for entry in files[:MAX_LOG_FILES]:
        left -= pq.read_metadata(entry.path).num_rows
        if left < 0:
            return
        yield Path(entry.path)


def _reason(row: dict[str, Any], settings: EvidenceSettings) -> str:
    """Say in numbers why a creative has its state."""
    if row["state"] == "fatigued":
        return f"{_points(row, 'change')} against its own past"
    if row["state"] in ("better", "worse"):
        return f"{_points(row, 'difference')} against the ad's others"
    if row["impressions"] == 0:
        return "never shown"
    if row["impressions"] < settings.min_impressions:
        return f"fewer than {settings.min_impressions} impressions"
    if _known(row["difference"]) is None:
        return "no other creative of the ad was shown"
    if row["difference_low"] <= 0 <= row["difference_high"]:
        return f"{_points(row, 'difference')}, which holds zero"
    return f"the ad's others have fewer than {settings.min_impressions} impressions"


def _points(row: dict[str, Any], name: str) -> str:
    value, low, high = (100 * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:+.2f} points ({low:+.2f} to {high:+.2f})"


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
