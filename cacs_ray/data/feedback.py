"""Decisions joined with clicks -> impressions: the circle closes in data.

A decision with a slot was shown. It is clicked when a click on its request and
ad came within [request_ts, request_ts + attribution window).
"""

from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from cacs_ray.config import Config
from cacs_ray.data.casting import cast_table
from cacs_ray.data.checks import check_column
from cacs_ray.data.declaration import LayoutColumn
from cacs_ray.data.reading import TableFile, list_files, read_whole
from cacs_ray.errors import InputError
from cacs_ray.schema import CLICKS, DECISIONS, IMPRESSIONS, Column

_KEY: Final = (Column.REQUEST_ID, Column.AD_ID)
_DELAY: Final = "delay"


class ClickCounts(Config):
    """What became of the clicks; the five numbers add up to all of them."""

    attributed: int
    """Made an impression a clicked one."""
    duplicate: int
    """On an impression that was clicked already, within the window."""
    late: int
    """At or after the end of the attribution window."""
    too_early: int
    """Before the request: a clock is wrong."""
    unknown: int
    """On nothing that was shown, or without ids or time."""


def join_feedback(
    decisions: pa.Table, clicks: pa.Table, *, attribution_window_s: float
) -> pa.Table:
    """Turn decisions and clicks into an impressions table of the log contract.

    Args:
        decisions: in `schema.DECISIONS`, declared request columns behind.
        clicks: in `schema.CLICKS`, in any order, repeats allowed.
        attribution_window_s: seconds in which a click counts, > 0.

    Returns:
        One row per decision with a slot, in their order: the contract's columns
        (`weight` null) and the request columns as they were seen. A request that was
        sent and decided twice counts once, as it was decided first in the log.

    Raises:
        ValueError: the window is not positive.
    """
    shown = _shown(decisions)
    matched = _matched(shown, clicks, attribution_window_s)
    counted = matched.filter(pl.col("is_inside")).select(_KEY).unique()
    keys = shown.select(
        pl.struct(_KEY).is_in(counted.select(pl.struct(_KEY)).to_series().implode())
    )
    declared = [name for name in decisions.column_names if name not in DECISIONS.names]
    impressions = shown.with_columns(
        keys.to_series().alias(Column.IS_CLICKED),
        pl.lit(None, dtype=pl.Float64).alias(Column.WEIGHT),
    ).select([*IMPRESSIONS.names, *declared])
    fields = [decisions.schema.field(name) for name in declared]
    return impressions.to_arrow().cast(pa.schema([*IMPRESSIONS, *fields]))


def count_clicks(
    decisions: pa.Table, clicks: pa.Table, *, attribution_window_s: float
) -> ClickCounts:
    """Count what `join_feedback` does with each click; same arguments."""
    matched = _matched(_shown(decisions), clicks, attribution_window_s)
    inside = matched.filter(pl.col("is_inside"))
    attributed = inside.select(_KEY).n_unique()
    early = matched.filter(pl.col(_DELAY) < pl.duration()).height
    return ClickCounts(
        attributed=attributed,
        duplicate=inside.height - attributed,
        late=matched.height - inside.height - early,
        too_early=early,
        unknown=clicks.num_rows - matched.height,
    )


def count_repeats(decisions: pa.Table) -> int:
    """Count the shown decisions that `join_feedback` leaves out as repeats.

    A client that got no answer asks again, and the log holds both.
    """
    num_shown = decisions.num_rows - decisions[Column.SLOT].null_count
    return int(num_shown - _shown(decisions).height)


def read_table(location: str, schema: pa.Schema) -> pa.Table:
    """Read decisions or clicks from files, in the types of their schema.

    Args:
        location: a file or directory; extra columns stay as they were read, in the
            wider type where files differ, such as float64 for int64 and float64.
        schema: `DECISIONS` or `CLICKS`.

    Raises:
        InputError: nothing readable is there, a required column is missing, a value
            is missing or of the wrong type (the decision log is ours, so that is
            damage and not a row to reject), or files hold an extra column as types
            that no type holds both of, such as text and numbers.
    """
    layout = tuple(
        LayoutColumn(
            name=field.name,
            source=field.name,
            type=field.type,
            is_required=not field.nullable,
            must_exist=not field.nullable,
        )
        for field in schema
    )
    parts = {file.path: _cast_file(file, layout) for file in list_files(location)}
    if not parts:
        raise InputError("no files", source=location, rule="empty_log")
    common = pa.schema([])
    for path, part in parts.items():
        common = _common_schema(common, part.schema, path)
    return pa.concat_tables([_fitted(part, common, p) for p, part in parts.items()])


def _common_schema(before: pa.Schema, own: pa.Schema, path: str) -> pa.Schema:
    """Return what holds the columns of earlier files and of one more."""
    try:
        return pa.unify_schemas([before, own], promote_options="permissive")
    except pa.ArrowException:
        for name in (name for name in own.names if name in before.names):
            fields = [pa.schema([one.field(name)]) for one in (before, own)]
            try:
                pa.unify_schemas(fields, promote_options="permissive")
            except pa.ArrowException as error:
                raise _two_types(path, own.field(name), before.field(name)) from error
        raise


def _fitted(part: pa.Table, common: pa.Schema, path: str) -> pa.Table:
    """Return a file's rows in the types of all files, null where it has no column."""
    columns = []
    for field in common:
        if field.name not in part.column_names:
            columns.append(pa.nulls(part.num_rows, field.type))
            continue
        try:
            columns.append(part[field.name].cast(field.type))
        except pa.ArrowException as error:
            own = part.schema.field(field.name)
            raise _two_types(path, own, field, f": {error}") from error
    return pa.table(columns, schema=common)


def _two_types(path: str, own: pa.Field, common: pa.Field, why: str = "") -> InputError:
    return InputError(
        f"{own.type} here, {common.type} in other files{why}",
        source=path,
        field=own.name,
        rule="same_type_in_all_files",
    )


def _cast_file(file: TableFile, layout: tuple[LayoutColumn, ...]) -> pa.Table:
    raw = read_whole(file)
    for column in layout:
        check_column(column, raw.schema, source=file.path, table="feedback")
    cast = cast_table(raw, layout)
    bad = np.flatnonzero(cast.is_missing | cast.is_wrong_type)
    if len(bad):
        rule = "missing_required" if cast.is_missing[bad[0]] else "wrong_type"
        raise InputError(
            f"{len(bad)} rows are damaged",
            source=file.path,
            field=f"row {bad[0]}",
            rule=rule,
        )
    table = cast.table
    for name in raw.column_names:
        if name not in table.column_names:
            table = table.append_column(raw.schema.field(name), raw[name])
    return table


def _shown(decisions: pa.Table) -> pl.DataFrame:
    """Keep what was shown, each request and ad once: so says the contract."""
    shown = pl.DataFrame(decisions).filter(pl.col(Column.SLOT).is_not_null())
    return shown.unique(subset=list(_KEY), keep="first", maintain_order=True)


def _matched(
    shown: pl.DataFrame, clicks: pa.Table, attribution_window_s: float
) -> pl.DataFrame:
    """Keep the clicks on something shown, with their delay after the request."""
    if not attribution_window_s > 0:
        raise ValueError(f"the window must be positive, got {attribution_window_s}")
    window = pl.duration(microseconds=round(attribution_window_s * 1e6))
    requests = shown.select(*_KEY, Column.REQUEST_TS)
    delay = pl.col(Column.CLICK_TS) - pl.col(Column.REQUEST_TS)
    return (
        pl.DataFrame(clicks.select(CLICKS.names))
        .drop_nulls()
        .join(requests, on=list(_KEY), how="inner")
        .with_columns(delay.alias(_DELAY))
        .with_columns(
            ((pl.col(_DELAY) >= pl.duration()) & (pl.col(_DELAY) < window)).alias(
                "is_inside"
            )
        )
    )
