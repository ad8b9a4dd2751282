"""One pass over the training window: how often each value was seen.

Every file is aggregated where it lies (polars inside a Ray Data task); only the
partial sums travel, and the driver adds them up by the rows of the ids. Nothing is
shuffled.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from cacs_ray.ids import IdIndex, one_array
from cacs_ray.pipelines import map_items
from cacs_ray.schema import Column

_NAME: Final = "name"
_READ: Final = (
    Column.REQUEST_TS,
    Column.USER_ID,
    Column.AD_ID,
    Column.CREATIVE_ID,
    Column.IS_CLICKED,
    Column.WEIGHT,
)
_PARTIAL = ["key", "value"]
_SUMS = ["weight", "clicks", "total", "squares"]


@dataclass(frozen=True, slots=True)
class RequestField:
    """A request column to count: values of a category, moments of numbers."""

    key: str
    column: str
    is_number: bool
    """Also of the numbers in a vector, which count one by one."""


@dataclass(frozen=True, slots=True)
class WindowCounts:
    """Weighted sums of the training window by (key, value).

    Columns of `table`: key (`user`, `ad`, `creative` or a request field's key),
    value, weight (impressions), clicks, and total / squares of numbers.
    """

    table: pl.DataFrame

    def of(self, key: str) -> pl.DataFrame:
        """Rows of one key: value, weight, clicks, total, squares."""
        return self.table.filter(pl.col("key") == key).drop("key")


def count_window(
    files: Sequence[str],
    start_us: int,
    end_us: int,
    fields: Sequence[RequestField],
    ids: Mapping[str, pa.ChunkedArray],
    kept: Path | None = None,
) -> WindowCounts:
    """Count users, ads, creatives and request values in [start, end).

    Args:
        files: accepted impressions (Parquet, contract names), no file twice.
        start_us: first microsecond of the window.
        end_us: first microsecond after it.
        fields: request columns to count besides.
        ids: of each side, the users, ads and creatives that are known; others are
            not counted.
        kept: directory of sums by file, made when needed: files that were counted
            before are not read again, and those of other files go.

    Returns:
        Sums over all files; empty when no row lies in the window.
    """
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)

    def count_files(batch: pa.Table) -> Iterator[pa.Table]:
        for path in batch["path"].to_pylist():
            part, name = _kept_count(path, (start_us, end_us), fields, kept)
            yield part.with_columns(pl.lit(name).alias(_NAME)).to_arrow()

    parts = map_items([{"path": path} for path in files], count_files)
    sums = _Sums(ids)
    for part in parts.iter_batches(batch_format="pyarrow", batch_size=None):
        sums.add(pl.DataFrame(part))
    if kept is not None:
        _remove_others(kept, sums.names)
    return WindowCounts(sums.table())


class _Sums:
    """Adds partial sums up as they come, in memory that only the ids decide."""

    def __init__(self, ids: Mapping[str, pa.ChunkedArray]) -> None:
        self._ids = ids
        self._index = {side: IdIndex(known) for side, known in ids.items()}
        self._sums = {side: np.zeros((2, len(known))) for side, known in ids.items()}
        self._others: list[pl.DataFrame] = []
        self.names: set[str] = set()
        """Of the files that keep the partial sums."""

    def add(self, part: pl.DataFrame) -> None:
        self.names |= set(part[_NAME].unique())
        for (key,), rows in part.drop(_NAME).group_by("key"):
            side = str(key)
            if side not in self._index:
                self._others.append(rows)
                continue
            row = self._index[side].find(rows["value"].to_arrow())
            added = rows.select("weight", "clicks").to_numpy().T[:, row >= 0]
            # A part may hold the sums of several files, and so an id more than once.
            for total, values in zip(self._sums[side], added, strict=True):
                np.add.at(total, row[row >= 0], values)

    def table(self) -> pl.DataFrame:
        """Return all sums, those of ids in the order of the ids."""
        parts = [self._of_side(side) for side in self._sums]
        if self._others:
            others = pl.concat(self._others).group_by(_PARTIAL)
            parts.append(others.agg(pl.col(_SUMS).sum()).sort(_PARTIAL))
        return pl.concat(parts)

    def _of_side(self, side: str) -> pl.DataFrame:
        weight, clicks = self._sums[side]
        seen = np.flatnonzero(weight > 0)
        values = one_array(self._ids[side]).take(pa.array(seen)).cast(pa.string())
        table = pl.DataFrame(
            {
                "value": pl.Series(values=pl.from_arrow(values), dtype=pl.String),
                "weight": weight[seen],
                "clicks": clicks[seen],
            }
        )
        zero = pl.lit(0.0)
        return table.select(
            pl.lit(side).alias("key"), *table.columns, total=zero, squares=zero
        )


def _kept_count(
    path: str,
    window: tuple[int, int],
    fields: Sequence[RequestField],
    kept: Path | None,
) -> tuple[pl.DataFrame, str]:
    """Count a file, or read what was counted before; with the name it is kept by."""
    if kept is None:
        return _count_file(path, *window, fields), ""
    # The part of the window that the file covers: a later, larger window may cover
    # the same of it.
    first, last = _time_range(path)
    covered = max(window[0], first), min(window[1], last + 1)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(repr((covered, list(fields))).encode())
    target = kept / f"{digest.hexdigest()[:32]}.parquet"
    if not target.is_file():
        counted = _count_file(path, *window, fields)
        aside = target.with_name(f"{target.name}.partial-{os.getpid()}")
        counted.write_parquet(aside, compression="lz4")
        aside.replace(target)
        return counted, target.name
    return pl.read_parquet(target), target.name


def _time_range(path: str) -> tuple[int, int]:
    time_us = pl.col(Column.REQUEST_TS).dt.epoch("us")
    first, last = (
        pl.scan_parquet(path)
        .select(time_us.min().alias("first"), time_us.max().alias("last"))
        .collect()
        .row(0)
    )
    return int(first), int(last)


def _remove_others(kept: Path, wanted: set[str]) -> None:
    for path in kept.iterdir():
        if path.name not in wanted:
            path.unlink()


def _count_file(
    path: str, start_us: int, end_us: int, fields: Sequence[RequestField]
) -> pl.DataFrame:
    time_us = pl.col(Column.REQUEST_TS).dt.epoch("us")
    wanted = dict.fromkeys([*_READ, *(field.column for field in fields)])
    rows = pl.read_parquet(path, columns=list(wanted)).filter(
        (time_us >= start_us) & (time_us < end_us)
    )
    parts = [
        _count_values(rows, key, column)
        for key, column in (
            ("user", Column.USER_ID),
            ("ad", Column.AD_ID),
            ("creative", Column.CREATIVE_ID),
        )
    ]
    for field in fields:
        count = _count_numbers if field.is_number else _count_values
        parts.append(count(rows, field.key, field.column))
    return pl.concat(parts)


def _count_values(rows: pl.DataFrame, key: str, column: str) -> pl.DataFrame:
    values = _weighted(rows, pl.col(column))
    if values.schema["value"].base_type() == pl.List:
        values = values.explode("value")
    return (
        values.with_columns(pl.col("value").cast(pl.String))
        .drop_nulls("value")
        .group_by("value")
        .agg(pl.col("weight", "clicks").sum())
        .select(
            pl.lit(key).alias("key"),
            "value",
            "weight",
            "clicks",
            total=pl.lit(0.0),
            squares=pl.lit(0.0),
        )
    )


def _count_numbers(rows: pl.DataFrame, key: str, column: str) -> pl.DataFrame:
    number, weight = pl.col("value"), pl.col("weight")
    numbers = _weighted(rows, pl.col(column))
    if numbers.schema["value"].base_type() == pl.List:
        numbers = numbers.explode("value")
    return (
        numbers.with_columns(number.cast(pl.Float64))
        .filter(number.is_finite())
        .select(
            weight.sum(),
            pl.col("clicks").sum(),
            total=(number * weight).sum(),
            squares=(number**2 * weight).sum(),
        )
        .select(
            pl.lit(key).alias("key"), pl.lit(None, pl.String).alias("value"), *_SUMS
        )
    )


def _weighted(rows: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    """Return value, weight and clicks alone: a log may have columns called so."""
    weight = pl.col(Column.WEIGHT).fill_null(1.0)
    return rows.select(
        value.alias("value"),
        weight.alias("weight"),
        (pl.col(Column.IS_CLICKED) * weight).alias("clicks"),
    )


def beta_prior(clicks: np.ndarray, impressions: np.ndarray) -> tuple[float, float]:
    """Fit a Beta prior of creative CTRs to counts, by moments.

    With overall CTR m and the between-creative variance v left after binomial
    noise is taken out, the prior has mean m and strength m (1 - m) / v - 1,
    kept in [10, 10,000] impressions.

    Args:
        clicks: float [K], weighted clicks.
        impressions: float [K], weighted impressions; zeros are ignored.

    Returns:
        (alpha, beta), both > 0; (1, 19) when nothing was clicked or seen.

    >>> alpha, beta = beta_prior(np.array([5., 15.]), np.array([100., 100.]))
    >>> round(alpha / (alpha + beta), 6)
    0.1

    Source: Efron & Morris style empirical Bayes, method of moments for the
    beta-binomial (Kleinman 1973).
    """
    seen = impressions > 0
    n, y = impressions[seen], clicks[seen]
    total = n.sum()
    if total == 0 or y.sum() == 0:
        return 1.0, 19.0
    mean = float(np.clip(y.sum() / total, 1e-6, 1 - 1e-6))
    noise = mean * (1 - mean)
    spread = float((n * (y / n - mean) ** 2).sum()) - (len(n) - 1) * noise
    variance = spread / max(total - float((n**2).sum()) / total, 1e-9)
    strength = noise / variance - 1 if variance > 0 else 1e4
    strength = float(np.clip(strength, 10, 1e4))
    return mean * strength, (1 - mean) * strength
