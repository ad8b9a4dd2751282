"""Requests table -> candidates: the rules of asking, with the catalogue alone.

A rows of the table, one per candidate ad   R requests
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cacs_ray.data.casting import CastTable, cast_table
from cacs_ray.data.declaration import KIND_TYPES, LayoutColumn
from cacs_ray.decision.candidates import Candidates
from cacs_ray.decision.controls import ControlRows, left_aligned
from cacs_ray.errors import InputError
from cacs_ray.features.catalogue import Catalogue
from cacs_ray.features.spec import FieldSpec
from cacs_ray.schema import REQUESTS, Column


@dataclass(frozen=True, slots=True)
class PreparedRequests:
    """Rows that can be decided, and those that cannot with the rule they broke."""

    requests: pa.Table
    """Accepted rows, ordered by request (first appearance), contract types."""
    candidates: Candidates
    ad_rows: np.ndarray
    """int32 [A]: catalogue row of each accepted row's ad."""
    rejects: pa.Table
    """The other rows as they came, with the column `rule`."""


def prepare_requests(
    catalogue: Catalogue,
    requests: pa.Table,
    fields: Sequence[FieldSpec] = (),
    controls: ControlRows | None = None,
) -> PreparedRequests:
    """Check a requests table and look up which creatives may be shown.

    A row is rejected whole, with the first rule it breaks: `missing_required`,
    `wrong_type`, `bad_bid`, `duplicate_candidate`, `unknown_ad`, `unknown_creative`,
    `creative_of_other_ad`, `creative_not_live` (nothing to choose from, or the
    pinned creative is not live), `creative_excluded` (the controls leave nothing to
    choose from, or not the creative that the request pins).

    Args:
        catalogue: what may be shown.
        requests: the contract's requests table; other columns pass through.
        fields: the request's declared features; their columns get their types.
        controls: what the operator says, by rows of the catalogue.

    Returns:
        Accepted rows with their candidates, and the rejects; accepted + rejected
        = given.

    Raises:
        InputError: a required column is missing.
    """
    cast = _cast(requests, fields)
    table = cast.table
    rules = np.full(table.num_rows, "", dtype=object)
    ad_rows = catalogue.ad_row(table[Column.AD_ID].to_pylist())
    _mark(rules, cast.is_missing, "missing_required")
    _mark(rules, cast.is_wrong_type, "wrong_type")
    _mark(rules, _not_positive(table[Column.BID_MICROS]), "bad_bid")
    _mark(rules, _is_repeated(table), "duplicate_candidate")
    _mark(rules, ad_rows == 0, "unknown_ad")
    ts = table[Column.REQUEST_TS].cast(pa.int64()).fill_null(0).to_numpy()
    lists = catalogue.lists(ad_rows, ts)
    lists = _restrict(table, catalogue, ad_rows, lists, rules)
    _mark(rules, lists[:, 0] == 0, "creative_not_live")
    pinned = _pins(table, catalogue, ad_rows, lists, rules)
    if controls is not None:
        lists = controls.allowed(lists, ts)
        _mark(rules, lists[:, 0] == 0, "creative_excluded")
        is_left = (lists == pinned[:, None]).any(axis=1)
        _mark(rules, (pinned > 0) & ~is_left, "creative_excluded")
        theirs = controls.pinned[ad_rows]
        may = (pinned == 0) & (lists == theirs[:, None]).any(axis=1)
        pinned = np.where(may, theirs, pinned)
    kept = _by_request(table, np.flatnonzero(rules == ""))
    rejected = np.flatnonzero(rules != "")
    accepted = _take(table, kept)
    return PreparedRequests(
        requests=accepted,
        candidates=_capped(
            _candidates(accepted, lists[kept], pinned[kept]), ad_rows[kept], controls
        ),
        ad_rows=ad_rows[kept],
        rejects=_take(requests, rejected).append_column(
            Column.RULE, pa.array(rules[rejected].tolist(), pa.string())
        ),
    )


def require_columns(requests: pa.Table) -> None:
    """Raise `InputError` when a required column of the contract is missing."""
    for field in REQUESTS:
        if not field.nullable and field.name not in requests.column_names:
            raise InputError(
                f"required column is missing; the table has {requests.column_names}",
                source="requests",
                field=field.name,
                rule="missing_required",
            )


def _cast(requests: pa.Table, fields: Sequence[FieldSpec]) -> CastTable:
    """Give contract and declared columns their types; others stay as they are."""
    require_columns(requests)
    layout = {
        field.column: LayoutColumn(field.column, field.column, KIND_TYPES[field.kind])
        for field in fields
    }
    layout |= {
        field.name: LayoutColumn(
            field.name, field.name, field.type, is_required=not field.nullable
        )
        for field in REQUESTS
    }
    cast = cast_table(requests, tuple(layout.values()))
    table = cast.table
    for name in requests.column_names:
        if name not in layout:
            table = table.append_column(name, requests[name])
    return CastTable(table, cast.is_missing, cast.is_wrong_type)


def _mark(rules: np.ndarray, is_broken: np.ndarray, rule: str) -> None:
    rules[is_broken & (rules == "")] = rule


def _not_positive(column: pa.ChunkedArray) -> np.ndarray:
    return pc.less_equal(column, 0).fill_null(False).to_numpy()


def _is_repeated(table: pa.Table) -> np.ndarray:
    # On codes: one request has a few ads, and a query engine takes milliseconds.
    request, ad = (
        table[name]
        .combine_chunks()
        .dictionary_encode(null_encoding="encode")
        .indices.to_numpy()
        .astype(np.int64)
        for name in (Column.REQUEST_ID, Column.AD_ID)
    )
    _, first = np.unique(request * table.num_rows + ad, return_index=True)
    is_repeated = np.ones(table.num_rows, bool)
    is_repeated[first] = False
    return is_repeated


def _restrict(
    table: pa.Table,
    catalogue: Catalogue,
    ad_rows: np.ndarray,
    lists: np.ndarray,
    rules: np.ndarray,
) -> np.ndarray:
    """Keep of each list what `creative_ids` asks for, where it asks."""
    given = table[Column.CREATIVE_IDS].combine_chunks()
    if given.null_count == len(given):
        return lists
    is_asked = given.is_valid().to_numpy(zero_copy_only=False)
    wanted = catalogue.creative_row(given.flatten().to_pylist())
    lengths = pc.list_value_length(given).fill_null(0).to_numpy()
    asking = np.repeat(np.arange(len(lists)), lengths)
    unknown = np.bincount(asking[wanted == 0], minlength=len(lists)) > 0
    is_other = catalogue.creative_ad_row[wanted] != ad_rows[asking]
    other = np.bincount(asking[is_other], minlength=len(lists)) > 0
    _mark(rules, unknown, "unknown_creative")
    _mark(rules, other, "creative_of_other_ad")
    # One number for each pair of row and creative, so that all rows are one look-up.
    size = len(catalogue.creative_ids)
    held = np.arange(len(lists))[:, None] * size + lists
    is_kept = (lists > 0) & (np.isin(held, asking * size + wanted) | ~is_asked[:, None])
    return left_aligned(lists, is_kept)


def _pins(
    table: pa.Table,
    catalogue: Catalogue,
    ad_rows: np.ndarray,
    lists: np.ndarray,
    rules: np.ndarray,
) -> np.ndarray:
    """Return the pinned creative of each row, 0 = none; a pin must be live."""
    column = table[Column.PINNED_CREATIVE_ID]
    if column.null_count == len(column):
        return np.zeros(len(column), np.int32)
    asked = column.is_valid().to_numpy()
    pinned = catalogue.creative_row(column.to_pylist())
    _mark(rules, asked & (pinned == 0), "unknown_creative")
    other = asked & (catalogue.creative_ad_row[pinned] != ad_rows)
    _mark(rules, other, "creative_of_other_ad")
    is_live = (lists == pinned[:, None]).any(axis=1)
    _mark(rules, asked & ~is_live, "creative_not_live")
    return pinned


def _by_request(table: pa.Table, rows: np.ndarray) -> np.ndarray:
    """Order rows by request, requests by first appearance, ads as given."""
    ids = table[Column.REQUEST_ID].take(rows).combine_chunks().dictionary_encode()
    return rows[np.argsort(ids.indices.to_numpy(), kind="stable")]


def _take(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Return some rows; all of them in order, or none, are no work."""
    if len(rows) == 0 or np.array_equal(rows, np.arange(table.num_rows)):
        return table.slice(0, len(rows))
    return table.take(rows)


def _capped(
    candidates: Candidates, ad_rows: np.ndarray, controls: ControlRows | None
) -> Candidates:
    """Return candidates with the bounds that the operator gives."""
    if controls is None:
        return candidates
    shares = controls.max_share[candidates.creative_lists]
    exploration = controls.max_exploration[ad_rows]
    return replace(
        candidates,
        # None where all are free: the bounds cost time.
        max_share=shares if (shares < 1).any() else None,
        max_exploration=exploration if (exploration < 1).any() else None,
    )


def _candidates(
    accepted: pa.Table, lists: np.ndarray, pinned: np.ndarray
) -> Candidates:
    ids = accepted[Column.REQUEST_ID].combine_chunks().dictionary_encode()
    width = max(1, int((lists > 0).sum(1).max(initial=1)))
    return Candidates(
        request_ids=tuple(ids.dictionary.to_pylist()),
        request_index=ids.indices.to_numpy().astype(np.int32),
        ad_ids=tuple(accepted[Column.AD_ID].to_pylist()),
        bid_micros=accepted[Column.BID_MICROS].to_numpy(),
        creative_lists=lists[:, :width],
        pinned=pinned,
    )
