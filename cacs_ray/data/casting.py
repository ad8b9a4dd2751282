"""Columns as read -> columns of the contract's types, value by value.

A value that cannot become its type turns null and is reported, so that it costs
its row and not the file. The usual case, a column that is right already or casts
as a whole, never looks at single values.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from cacs_ray.data.declaration import LayoutColumn
from cacs_ray.schema import TIMESTAMP

_MICROS = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 0.001}
_TICKS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_INT64 = np.iinfo(np.int64)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BOOLEANS = {"true": True, "t": True, "1": True, "1.0": True}
_BOOLEANS |= {"false": False, "f": False, "0": False, "0.0": False}


@dataclass(frozen=True, slots=True)
class CastTable:
    """A table in the types of its layout, with what went wrong per row."""

    table: pa.Table
    is_missing: np.ndarray
    """bool [N]: a required value is null."""
    is_wrong_type: np.ndarray
    """bool [N]: a value is there but cannot become its type."""


def cast_table(raw: pa.Table, layout: Sequence[LayoutColumn]) -> CastTable:
    """Give a table its contract names and types.

    Args:
        raw: N rows as read, in the user's names.
        layout: the columns to make; those absent from `raw` become null.

    Returns:
        N rows; a value that failed is null in the table.
    """
    missing = np.zeros(raw.num_rows, dtype=bool)
    wrong = np.zeros(raw.num_rows, dtype=bool)
    columns, fields = [], []
    for column in layout:
        if column.source in raw.column_names:
            before = _without_nan(_plain(raw[column.source]), column)
            after = cast_column(before, column.type, unit=column.unit)
            if after.null_count:
                wrong |= _mask(pc.and_(after.is_null(), before.is_valid()))
            after = _without_nan(after, column)
        else:
            before = after = pa.nulls(raw.num_rows, column.type or pa.string())
        if column.is_required and before.null_count:
            missing |= _mask(before.is_null())
        columns.append(after)
        fields.append(pa.field(column.name, after.type))
    return CastTable(pa.table(columns, schema=pa.schema(fields)), missing, wrong)


def cast_column(
    values: pa.Array, target: pa.DataType | None, *, unit: str | None = None
) -> pa.Array:
    """Cast one column; what cannot be cast becomes null.

    Args:
        values: as read; dictionaries already decoded.
        target: a contract type; None keeps text and bytes (images).
        unit: of a time that is written as a number.
    """
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), target or pa.string())
    if target is None:
        is_bytes = pa.types.is_binary(values.type)
        return values if is_bytes else _to_string(values)
    if values.type == target:
        return values
    if pa.types.is_timestamp(target):
        return _to_timestamp(values, unit)
    return _caster(target)(values, target)


def _caster(target: pa.DataType) -> Callable[[pa.Array, pa.DataType], pa.Array]:
    if pa.types.is_integer(target):
        return _to_integer
    if pa.types.is_floating(target):
        return _to_float
    if pa.types.is_boolean(target):
        return _to_boolean
    if pa.types.is_list(target):
        return _to_list
    return _to_string


def _plain(values: pa.ChunkedArray) -> pa.Array:
    """Join the chunks and undo encodings that say nothing about the value."""
    array = values.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return array.cast(pa.binary())
    return array


def _without_nan(values: pa.Array, column: LayoutColumn) -> pa.Array:
    """Read NaN as null, as dataframes write it, where it is no rule's business.

    The contract's own doubles keep it: a NaN propensity is a bad propensity.
    """
    own_double = column.type == pa.float64() and column.kind is None
    if own_double or not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_nan(values), None, values)


def _mask(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False).astype(bool)


def _nothing(values: pa.Array, target: pa.DataType) -> pa.Array:
    return pa.nulls(len(values), target)


def _is_scalar_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or _is_decimal(kind)


def _is_decimal(kind: pa.DataType) -> bool:
    return pa.types.is_decimal(kind)


def _to_string(values: pa.Array, target: pa.DataType | None = None) -> pa.Array:
    target = target or pa.string()
    if pa.types.is_nested(values.type):
        return _nothing(values, target)
    try:
        return values.cast(target)
    except pa.ArrowException:
        if pa.types.is_binary(values.type):
            return pa.array([_utf8(v) for v in values.to_pylist()], target)
        return _nothing(values, target)


def _utf8(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _to_float(values: pa.Array, target: pa.DataType) -> pa.Array:
    kind = values.type
    if _is_scalar_number(kind) or pa.types.is_boolean(kind):
        return values.cast(target, safe=False)
    if not pa.types.is_string(kind):
        return _nothing(values, target)
    text = pl.Series(values.to_pylist(), dtype=pl.String).str.strip_chars()
    return text.cast(pl.Float64, strict=False).to_arrow().cast(target)


def _to_integer(values: pa.Array, target: pa.DataType) -> pa.Array:
    if pa.types.is_boolean(values.type):
        return _nothing(values, target)
    try:
        return values.cast(target)
    except pa.ArrowException:
        pass
    if pa.types.is_integer(values.type):
        ours, theirs = (np.iinfo(t.to_pandas_dtype()) for t in (target, values.type))
        low, high = max(ours.min, theirs.min), min(ours.max, theirs.max)
        fits = pc.and_(
            pc.greater_equal(values, pa.scalar(low, values.type)),
            pc.less_equal(values, pa.scalar(high, values.type)),
        )
        return pc.if_else(fits, values, None).cast(target)
    numbers = _to_float(values, pa.float64())
    whole = pc.and_(
        pc.equal(pc.floor(numbers), numbers), pc.less(pc.abs(numbers), 2.0**53)
    )
    integers = pc.if_else(whole, numbers, None).cast(pa.int64())
    return _to_integer(integers, target) if target != pa.int64() else integers


def _to_boolean(values: pa.Array, target: pa.DataType) -> pa.Array:
    if _is_scalar_number(values.type):
        numbers = values.cast(pa.float64(), safe=False)
        known = pc.or_(pc.equal(numbers, 0.0), pc.equal(numbers, 1.0))
        return pc.if_else(known, pc.equal(numbers, 1.0), None)
    if not pa.types.is_string(values.type):
        return _nothing(values, target)
    lowered = pc.utf8_lower(pc.utf8_trim_whitespace(values))
    index = pc.index_in(lowered, value_set=pa.array(list(_BOOLEANS)))
    return pa.array(list(_BOOLEANS.values())).take(index)


def _to_timestamp(values: pa.Array, unit: str | None) -> pa.Array:
    kind = values.type
    if pa.types.is_string(kind):
        if unit in (None, "iso"):
            return _iso_timestamp(values)
        values, kind = _to_float(values, pa.float64()), pa.float64()
    if pa.types.is_date(kind):
        return values.cast(pa.timestamp("ms"), safe=False).cast(TIMESTAMP)
    if pa.types.is_timestamp(kind):
        if kind.unit == "ns":
            return values.cast(TIMESTAMP, safe=False)
        ticks = values.cast(pa.timestamp(kind.unit)).cast(pa.int64())
        return _scaled(ticks, _TICKS[kind.unit])
    if not _is_scalar_number(kind) or unit not in _MICROS:
        return _nothing(values, TIMESTAMP)
    if pa.types.is_integer(kind) and unit in _TICKS:
        return _scaled(_to_integer(values, pa.int64()), _TICKS[unit])
    micros = pc.multiply(values.cast(pa.float64(), safe=False), _MICROS[unit])
    finite = pc.if_else(pc.is_finite(micros), micros, None)
    bounded = pc.max_element_wise(pc.min_element_wise(finite, 9e18), -9e18)
    bounded = pc.if_else(finite.is_valid(), bounded, None)
    return pc.round(bounded).cast(pa.int64()).cast(TIMESTAMP)


def _scaled(ticks: pa.Array, factor: int) -> pa.Array:
    """Multiply into microseconds; what would overflow stays at the far end."""
    valid = ticks.is_valid()
    numbers = ticks.fill_null(0).to_numpy(zero_copy_only=False)
    micros = np.clip(numbers, _INT64.min // factor + 1, _INT64.max // factor) * factor
    return pc.if_else(valid, pa.array(micros), None).cast(TIMESTAMP)


def _iso_timestamp(values: pa.Array) -> pa.Array:
    """Parse ISO 8601; a time without a zone is UTC."""
    for suffix in ("", "Z"):
        try:
            text = pc.binary_join_element_wise(values, suffix, "") if suffix else values
            return text.cast(TIMESTAMP)
        except pa.ArrowException:
            continue
    return pa.array([_iso_micros(v) for v in values.to_pylist()], pa.int64()).cast(
        TIMESTAMP
    )


def _iso_micros(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    past = moment - _EPOCH
    return (past.days * 86_400 + past.seconds) * 1_000_000 + past.microseconds


def _to_list(values: pa.Array, target: pa.DataType) -> pa.Array:
    kind = values.type
    if pa.types.is_string(kind):
        rows = [_json_list(text) for text in values.to_pylist()]
        return _list_by_row(rows, target)
    if not _is_list(kind):
        return _nothing(values, target)
    try:
        return values.cast(target, safe=False)
    except pa.ArrowException:
        return _list_by_row(values.to_pylist(), target)


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
    )


def _json_list(text: str | None) -> list[Any] | None:
    """Read a list from text, as CSV must write it: `[0.1, 0.2]`, `["a", "b"]`."""
    try:
        value = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def _list_by_row(rows: Sequence[list[Any] | None], target: pa.DataType) -> pa.Array:
    element = float if pa.types.is_floating(target.value_type) else str
    return pa.array([_list_row(row, element) for row in rows], target)


def _list_row(row: list[Any] | None, element: type) -> list[Any] | None:
    if row is None or any(isinstance(value, (list, dict)) for value in row):
        return None
    try:
        return [None if value is None else element(value) for value in row]
    except (TypeError, ValueError, OverflowError):
        return None
