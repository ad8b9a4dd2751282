"""The named row rules: which rows are rejected, and why.

Pure functions on Arrow tables that are in contract types already. A mask is
bool [N], True where a row breaks the rule. A row gets the first rule it breaks,
in the order of `IMPRESSION_RULES` or `ENTITY_RULES`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from cacs_ray.ids import IdIndex, one_array
from cacs_ray.schema import ROW_RULES, Column

Mask = np.ndarray

SOURCE_FILE: Final = "source_file"
ROW_NUMBER: Final = "row_number"
"""Columns of a rejected row beside its own and its rule: where it stood."""

IMPRESSION_RULES: Final = (*ROW_RULES, "shown_not_candidate", "number_not_finite")
ENTITY_RULES: Final = (
    "missing_required",
    "wrong_type",
    "duplicate_entity",
    "unknown_ad",
    "bad_live_window",
    "vector_wrong_size",
    "vector_not_finite",
    "number_not_finite",
)
EARLIEST_US: Final = 946_684_800_000_000
"""2000-01-01 in microseconds; no request was logged before."""
LATEST_US: Final = 4_102_444_800_000_000
"""2100-01-01, excluded."""
ALWAYS_FROM_US: Final = np.iinfo(np.int64).min
ALWAYS_UNTIL_US: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class KnownEntities:
    """What an impression may refer to; K creatives."""

    ads: IdIndex
    creatives: IdIndex
    creative_ad_row: np.ndarray
    """int64 [K]: which of `ads` a creative belongs to."""
    live_from_us: np.ndarray
    live_until_us: np.ndarray
    """int64 [K], half-open; the far ends of int64 where a creative always lives."""

    @classmethod
    def of(cls, ads: pa.Table, creatives: pa.Table) -> "KnownEntities":
        """Index accepted ads and creatives."""
        known_ads = IdIndex(ads[Column.AD_ID])
        return cls(
            ads=known_ads,
            creatives=IdIndex(creatives[Column.CREATIVE_ID]),
            creative_ad_row=known_ads.find(creatives[Column.AD_ID]),
            live_from_us=micros(creatives, Column.LIVE_FROM_TS, ALWAYS_FROM_US),
            live_until_us=micros(creatives, Column.LIVE_UNTIL_TS, ALWAYS_UNTIL_US),
        )


@dataclass(frozen=True, slots=True)
class ImpressionRows:
    """N impressions in contract types, looked up once for all rules."""

    table: pa.Table
    known: KnownEntities
    ad_row: np.ndarray
    """int64 [N] into `known.ads`, -1 = unknown."""
    creative_row: np.ndarray
    """int64 [N] into `known.creatives`, -1 = unknown."""
    candidate_row: np.ndarray
    """int64 [M]: all given candidates one after the other, -1 = unknown."""
    candidate_of: np.ndarray
    """int64 [M]: the impression each of them belongs to."""

    @classmethod
    def of(cls, table: pa.Table, known: KnownEntities) -> "ImpressionRows":
        """Look up the ads and creatives that impressions name."""
        lists = _array(table, Column.CANDIDATE_CREATIVE_IDS)
        return cls(
            table=table,
            known=known,
            ad_row=known.ads.find(table[Column.AD_ID]),
            creative_row=known.creatives.find(table[Column.CREATIVE_ID]),
            candidate_row=known.creatives.find(pc.list_flatten(lists)),
            candidate_of=_numpy(pc.list_parent_indices(lists)).astype(np.int64),
        )


def micros(table: pa.Table, column: str, null: int) -> np.ndarray:
    """Read a time column as int64 microseconds, nulls as the given number."""
    return _numpy(_array(table, column).cast(pa.int64()).fill_null(null))


def unknown_ad(rows: ImpressionRows) -> Mask:
    """The ad is not in `ads`."""
    return rows.ad_row < 0


def unknown_creative(rows: ImpressionRows) -> Mask:
    """The shown creative, or a candidate, is not in `creatives`."""
    return (rows.creative_row < 0) | _any_candidate(rows, rows.candidate_row < 0)


def creative_of_other_ad(rows: ImpressionRows) -> Mask:
    """The shown creative, or a candidate, is known but of another ad."""
    ad_of = np.append(rows.known.creative_ad_row, -1)
    candidate_ad = ad_of[rows.candidate_row]
    is_other = (rows.candidate_row >= 0) & (
        candidate_ad != rows.ad_row[rows.candidate_of]
    )
    shown_other = (rows.creative_row >= 0) & (ad_of[rows.creative_row] != rows.ad_row)
    return shown_other | _any_candidate(rows, is_other)


def shown_not_candidate(rows: ImpressionRows) -> Mask:
    """Candidates are given, and the shown creative is not among them."""
    is_shown = rows.candidate_row == rows.creative_row[rows.candidate_of]
    has_list = _numpy(_array(rows.table, Column.CANDIDATE_CREATIVE_IDS).is_valid())
    return has_list & ~_any_candidate(rows, is_shown)


def creative_not_live(rows: ImpressionRows) -> Mask:
    """The shown creative was not live: outside [live_from, live_until)."""
    at = micros(rows.table, Column.REQUEST_TS, 0)
    is_known = rows.creative_row >= 0
    live_from = np.append(rows.known.live_from_us, ALWAYS_FROM_US)[rows.creative_row]
    live_until = np.append(rows.known.live_until_us, 0)[rows.creative_row]
    return is_known & ((at < live_from) | (at >= live_until))


def bad_slot(rows: ImpressionRows) -> Mask:
    """The slot is negative."""
    return _true(pc.less(rows.table[Column.SLOT], 0))


def bad_propensity(rows: ImpressionRows) -> Mask:
    """The propensity is given and not in (0, 1]."""
    value = rows.table[Column.PROPENSITY]
    return _true(pc.invert(pc.and_(pc.greater(value, 0.0), pc.less_equal(value, 1.0))))


def bad_bid(rows: ImpressionRows) -> Mask:
    """The bid is given and not positive."""
    return _true(pc.less_equal(rows.table[Column.BID_MICROS], 0))


def bad_weight(rows: ImpressionRows) -> Mask:
    """The weight is given and not positive, or not finite."""
    value = rows.table[Column.WEIGHT]
    return _true(pc.invert(pc.and_(pc.greater(value, 0.0), pc.is_finite(value))))


def timestamp_out_of_range(rows: ImpressionRows) -> Mask:
    """The request was made before 2000 or from 2100 on."""
    at = micros(rows.table, Column.REQUEST_TS, EARLIEST_US)
    return (at < EARLIEST_US) | (at >= LATEST_US)


_IMPRESSION_CHECKS: Final[Mapping[str, Callable[[ImpressionRows], Mask]]] = {
    check.__name__: check
    for check in (
        unknown_ad,
        unknown_creative,
        creative_of_other_ad,
        bad_slot,
        bad_propensity,
        bad_bid,
        bad_weight,
        creative_not_live,
        timestamp_out_of_range,
        shown_not_candidate,
    )
}


def impression_masks(
    rows: ImpressionRows, vectors: Mapping[str, int]
) -> dict[str, Mask]:
    """Apply every rule that impressions can break by their values.

    Args:
        rows: what to check.
        vectors: declared vector columns and their sizes.

    Returns:
        Rule name to mask; types and duplicates are judged elsewhere.
    """
    masks = {name: check(rows) for name, check in _IMPRESSION_CHECKS.items()}
    return masks | value_masks(rows.table, vectors)


def value_masks(table: pa.Table, vectors: Mapping[str, int]) -> dict[str, Mask]:
    """Apply the rules about declared features, in any table."""
    size, finite = np.zeros((2, table.num_rows), dtype=bool)
    for name, width in vectors.items():
        size |= vector_wrong_size(table[name], width)
        finite |= vector_not_finite(table[name])
    return {
        "vector_wrong_size": size,
        "vector_not_finite": finite,
        "number_not_finite": number_not_finite(table),
    }


def vector_wrong_size(values: pa.ChunkedArray, size: int) -> Mask:
    """A vector is given and has not its declared size."""
    return _true(pc.not_equal(pc.list_value_length(values), size))


def vector_not_finite(values: pa.ChunkedArray) -> Mask:
    """A vector holds a null, a NaN or an infinity."""
    array = one_array(values)
    bad = ~_numpy(pc.is_finite(pc.list_flatten(array)).fill_null(False))
    mask = np.zeros(len(array), dtype=bool)
    if bad.any():
        mask[_numpy(pc.list_parent_indices(array))[bad]] = True
    return mask


def number_not_finite(table: pa.Table) -> Mask:
    """A declared number is infinite; the contract's doubles have their own rules."""
    mask = np.zeros(table.num_rows, dtype=bool)
    for field in table.schema:
        if field.type == pa.float64() and field.name not in (
            Column.PROPENSITY,
            Column.WEIGHT,
        ):
            mask |= _true(pc.invert(pc.is_finite(table[field.name])))
    return mask


def duplicate_entity(ids: pa.ChunkedArray) -> Mask:
    """The id stood already in a row above; nulls are no ids."""
    series = pl.Series(values=pl.from_arrow(one_array(ids)))
    return (~series.is_first_distinct() & series.is_not_null()).to_numpy()


def bad_live_window(creatives: pa.Table) -> Mask:
    """A creative's life ends before it begins."""
    live_from = micros(creatives, Column.LIVE_FROM_TS, ALWAYS_FROM_US)
    live_until = micros(creatives, Column.LIVE_UNTIL_TS, ALWAYS_UNTIL_US)
    return live_until <= live_from


def first_broken(
    masks: Mapping[str, Mask], order: Sequence[str], num_rows: int
) -> np.ndarray:
    """Say which rule each row is rejected by.

    Returns:
        int64 [N]: index into `order` of the first broken rule, -1 = accepted.
    """
    broken = np.full(num_rows, -1, dtype=np.int64)
    for index in reversed(range(len(order))):
        if order[index] in masks:
            broken[masks[order[index]]] = index
    return broken


def rejected_rows(
    raw: pa.Table, broken: np.ndarray, order: Sequence[str], *, source: str, first: int
) -> pa.Table:
    """Take the rejected rows as they were read, with rule, file and row number.

    Args:
        raw: N rows as read. A column of theirs that is called like one of ours
            gets `_as_read` behind its name.
        broken: from `first_broken`.
        order: the rules that `broken` points into.
        source: the file they stand in.
        first: row number in that file of the first row, counted from 0.
    """
    where = np.flatnonzero(broken >= 0)
    ours = (Column.RULE, SOURCE_FILE, ROW_NUMBER)
    names = [f"{name}_as_read" if name in ours else name for name in raw.column_names]
    rules = np.array(order, dtype=object)[broken[where]]
    return (
        raw.take(where)
        .rename_columns(names)
        .append_column(Column.RULE, pa.array(rules, pa.string()))
        .append_column(SOURCE_FILE, pa.array([source] * len(where), pa.string()))
        .append_column(ROW_NUMBER, pa.array(where + first, pa.int64()))
    )


def _any_candidate(rows: ImpressionRows, is_bad: Mask) -> Mask:
    mask = np.zeros(rows.table.num_rows, dtype=bool)
    mask[rows.candidate_of[is_bad]] = True
    return mask


def _array(table: pa.Table, column: str) -> pa.Array:
    return one_array(table[column])


def _numpy(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return one_array(values).to_numpy(zero_copy_only=False)


def _true(values: pa.ChunkedArray) -> Mask:
    """True where true; null, the answer about a null value, is no break."""
    return _numpy(pc.fill_null(values, False)).astype(bool)
