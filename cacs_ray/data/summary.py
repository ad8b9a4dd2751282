"""What a log holds, counted: merged from batches to files to the whole log."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.data.reading import as_text
from cacs_ray.data.rules import micros
from cacs_ray.schema import Column

SAMPLES_PER_RULE: Final = 5
_TIMELINE_POINTS: Final = 2_000
_SAMPLE_COLUMNS: Final = 40
_SAMPLE_CHARACTERS: Final = 120
_DAY_US: Final = 86_400_000_000


class RowCounts(Config):
    """Rows of one table; accepted + rejected = read."""

    read: int = 0
    accepted: int = 0
    rejected: int = 0
    rejected_by_rule: dict[str, int] = Field(default_factory=dict)
    samples: dict[str, tuple[dict[str, str | None], ...]] = Field(default_factory=dict)
    """Rule to at most five rejected rows, as text."""

    @classmethod
    def of(cls, *, accepted: int, rejected: pa.Table) -> "RowCounts":
        """Count one batch; `rejected` has the rule of each row."""
        rules = rejected[Column.RULE].to_pylist()
        by_rule = Counter(rules)
        samples = {
            rule: _sample(rejected.filter(pc.equal(rejected[Column.RULE], rule)))
            for rule in by_rule
        }
        return cls(
            read=accepted + len(rules),
            accepted=accepted,
            rejected=len(rules),
            rejected_by_rule=dict(by_rule),
            samples=samples,
        )

    @classmethod
    def merged(cls, parts: Sequence["RowCounts"]) -> "RowCounts":
        """Add up; samples come from the first parts."""
        by_rule: Counter[str] = Counter()
        samples: dict[str, tuple[dict[str, str | None], ...]] = {}
        for part in parts:
            by_rule.update(part.rejected_by_rule)
            for rule, rows in part.samples.items():
                samples[rule] = (*samples.get(rule, ()), *rows)[:SAMPLES_PER_RULE]
        return cls(
            read=sum(part.read for part in parts),
            accepted=sum(part.accepted for part in parts),
            rejected=sum(part.rejected for part in parts),
            rejected_by_rule=dict(by_rule),
            samples=samples,
        )


class LogSummary(Config):
    """The accepted impressions in numbers, and how many were rejected."""

    rows: RowCounts = RowCounts()
    first_ts_us: int | None = None
    last_ts_us: int | None = None
    """Earliest and latest `request_ts`; None without accepted rows."""
    rows_per_day: dict[str, int] = Field(default_factory=dict)
    """UTC day (2024-01-31) to accepted rows."""
    weight: float = 0.0
    """Impressions the accepted rows stand for (a null weight is 1)."""
    clicks: float = 0.0
    """Weighted clicks."""
    with_propensity: int = 0
    """Accepted rows that have a propensity."""
    rows_per_policy: dict[str, int] = Field(default_factory=dict)
    """Logging policy to accepted rows; rows without a policy are not in it."""
    timeline: tuple[tuple[int, int], ...] = ()
    """(request_ts in us, rows since the point before, up to and with this one);
    exact for few distinct times, thinned to about 2,000 points otherwise."""
    entities: dict[str, RowCounts] = Field(default_factory=dict)
    """creatives, ads, users: their rows."""

    @property
    def propensity_share(self) -> float:
        """Share of accepted rows that have a propensity, 0 for an empty log."""
        return self.with_propensity / max(1, self.rows.accepted)

    @classmethod
    def of(cls, accepted: pa.Table, rows: RowCounts) -> "LogSummary":
        """Summarise one batch of accepted impressions."""
        if not accepted.num_rows:
            return cls(rows=rows)
        at, counts = np.unique(
            micros(accepted, Column.REQUEST_TS, 0), return_counts=True
        )
        weight = accepted[Column.WEIGHT].fill_null(1.0).to_numpy()
        clicked = accepted[Column.IS_CLICKED].to_numpy().astype(float)
        policies = accepted[Column.POLICY].drop_null().value_counts()
        return cls(
            rows=rows,
            first_ts_us=int(at[0]),
            last_ts_us=int(at[-1]),
            rows_per_day=_per_day(at, counts),
            weight=float(weight.sum()),
            clicks=float(weight @ clicked),
            with_propensity=len(accepted) - accepted[Column.PROPENSITY].null_count,
            rows_per_policy={
                one["values"]: one["counts"] for one in policies.to_pylist()
            },
            timeline=_thinned(at, counts),
        )

    @classmethod
    def merged(cls, parts: Sequence["LogSummary"]) -> "LogSummary":
        """Add up summaries of different rows."""
        points = [point for part in parts for point in part.timeline]
        at, rows = np.array(sorted(points), dtype=np.int64).reshape(-1, 2).T
        at, start = np.unique(at, return_index=True)
        counts = np.add.reduceat(rows, start) if len(rows) else rows
        return cls(
            rows=RowCounts.merged([part.rows for part in parts]),
            first_ts_us=min(_given(part.first_ts_us for part in parts), default=None),
            last_ts_us=max(_given(part.last_ts_us for part in parts), default=None),
            rows_per_day=_added(part.rows_per_day for part in parts),
            weight=sum(part.weight for part in parts),
            clicks=sum(part.clicks for part in parts),
            with_propensity=sum(part.with_propensity for part in parts),
            rows_per_policy=_added(part.rows_per_policy for part in parts),
            timeline=_thinned(at, counts),
        )


def _given(values: Iterable[int | None]) -> list[int]:
    return [value for value in values if value is not None]


def _added(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(sorted(total.items()))


def _per_day(at: np.ndarray, counts: np.ndarray) -> dict[str, int]:
    """Count rows per UTC day from sorted distinct times."""
    days, start = np.unique(at // _DAY_US, return_index=True)
    names = np.datetime_as_string(days.astype("datetime64[D]"))
    sums = np.add.reduceat(counts, start)
    return dict(zip(names.tolist(), sums.tolist(), strict=True))


def _thinned(at: np.ndarray, counts: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Keep about 2,000 points, evenly by rows; the counts still add up."""
    if len(at) > _TIMELINE_POINTS:
        total = np.cumsum(counts)
        goals = np.linspace(0, total[-1], _TIMELINE_POINTS)
        kept = np.unique(np.append(np.searchsorted(total, goals), [0, len(at) - 1]))
        at, counts = at[kept], np.diff(total[kept], prepend=0)
    return tuple(zip(at.tolist(), counts.tolist(), strict=True))


def _sample(rows: pa.Table) -> tuple[dict[str, str | None], ...]:
    """Spell a few rejected rows; our three columns stand last and always stay."""
    names = rows.column_names
    shown = as_text(rows.slice(0, SAMPLES_PER_RULE).select(names[-_SAMPLE_COLUMNS:]))
    return tuple(
        {k: v if v is None else v[:_SAMPLE_CHARACTERS] for k, v in row.items()}
        for row in shown.to_pylist()
    )
