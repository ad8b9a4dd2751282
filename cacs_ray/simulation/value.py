"""What decisions are truly worth on a market whose click probabilities are known.

Intervals are 95 % percentile bootstraps over requests, because what happens inside
one request belongs together.

    R requests    N rows    B resamples    S summed columns
"""

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cacs_ray.errors import InputError
from cacs_ray.schema import Column
from cacs_ray.simulation.market import DEVICE, Ids, Market

_MAX_BAGS: Final = 4_000
"""More requests than this are resampled in bags of several, which costs less and
hardly widens an interval."""


def true_value(
    market: Market, decisions: pa.Table, *, num_resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Return the true CTR and RPM of the decisions that were shown.

    Args:
        market: the truth.
        decisions: rows of `schema.DECISIONS`; those without a slot count for
            nothing. A `device` column is honoured when there is one.
        num_resamples: bootstrap resamples, B.
        seed: of the resampling.

    Returns:
        `true_ctr` and `rpm_micros` (1000 x revenue / impressions, revenue = true
        CTR x price per click), each `{"value", "low", "high"}`; `impressions`; and
        `per_request`: `request_ids` and arrays [R] `shown`, `expected_clicks`,
        `revenue_micros`, of every request in order of appearance, for paired
        comparisons. Values are NaN when nothing was shown.

    Raises:
        InputError: an unknown ad or creative, or a shown row without a price.
    """
    is_shown = pc.is_valid(decisions[Column.SLOT])
    request_ids, codes = _codes(decisions[Column.REQUEST_ID])
    codes = codes[is_shown.to_numpy()]
    shown = decisions.filter(is_shown)
    if shown[Column.PRICE_MICROS].null_count:
        raise InputError(
            "a shown row has no price", field=Column.PRICE_MICROS, rule="missing_price"
        )
    slots = shown[Column.SLOT].to_numpy()
    p = market.click_probability(
        shown[Column.USER_ID],
        shown[Column.AD_ID],
        shown[Column.CREATIVE_ID],
        slots,
        _devices(shown),
    )
    revenue = p * shown[Column.PRICE_MICROS].to_numpy()
    size = len(request_ids)
    sums = _sums(codes, np.stack([np.ones(len(p)), p, revenue], 1), size)
    boots = resampled_sums(sums, num_resamples=num_resamples, seed=seed)
    total = sums.sum(0, keepdims=True)
    return {
        "true_ctr": _interval(_ratio(total[:, 1], total[:, 0]), boots[:, 1], boots),
        "rpm_micros": _interval(
            1000 * _ratio(total[:, 2], total[:, 0]), 1000 * boots[:, 2], boots
        ),
        "impressions": len(p),
        "per_request": {
            "request_ids": request_ids,
            "shown": sums[:, 0].astype(np.int64),
            "expected_clicks": sums[:, 1],
            "revenue_micros": sums[:, 2],
        },
    }


def normalised_gain(
    market: Market,
    impressions: pa.Table,
    chosen_creative_ids: Ids,
    *,
    is_rare: np.ndarray | None = None,
    num_resamples: int = 1000,
) -> dict[str, Any]:
    """Return how far a choice of creatives gets from random (0) to the oracle (1).

        gain = sum (chosen - random) / sum (oracle - random)

    over the true CTRs of each row's list, in the row's slot: random is the list's
    mean, oracle its maximum.

    Args:
        market: the truth.
        impressions: N rows with request, time, user, ad, slot and, where the list
            was not simply all live creatives, `candidate_creative_ids`.
        chosen_creative_ids: N ids, one of each row's list.
        is_rare: bool [N]; when given, the gain of these rows and of the others is
            returned too, as `rare` and `frequent`.
        num_resamples: bootstrap resamples, B.

    Returns:
        `all` (and `rare`, `frequent`), each `{"value", "low", "high"}`, NaN where
        no list leaves a choice; and float64 [N] `chosen_ctr`, `random_ctr`,
        `oracle_ctr`.

    Raises:
        InputError: an unknown id, or a choice outside its list.
    """
    lists = candidate_lists(market, impressions)
    chosen = market.creative_rows(chosen_creative_ids)
    is_chosen = lists == chosen[:, None]
    if not is_chosen.any(axis=1).all():
        raise InputError(
            f"{int((~is_chosen.any(axis=1)).sum())} choices are outside their list",
            field=Column.CREATIVE_ID,
            rule="creative_not_candidate",
        )
    p = list_probabilities(market, impressions, lists)
    rows = {
        "chosen_ctr": p[np.arange(len(p)), is_chosen.argmax(axis=1)],
        "random_ctr": np.nanmean(p, axis=1),
        "oracle_ctr": np.nanmax(p, axis=1),
    }
    won = rows["chosen_ctr"] - rows["random_ctr"]
    winnable = rows["oracle_ctr"] - rows["random_ctr"]
    request_ids, codes = _codes(impressions[Column.REQUEST_ID])
    groups = {"all": np.ones(len(p), bool)}
    if is_rare is not None:
        groups |= {"rare": np.asarray(is_rare), "frequent": ~np.asarray(is_rare)}
    gains = {}
    for name, member in groups.items():
        columns = np.stack([winnable * member, won * member], 1)
        sums = _sums(codes, columns, len(request_ids))
        boots = resampled_sums(sums, num_resamples=num_resamples, seed=0)
        total = sums.sum(0)
        gain = _ratio(total[1:], total[:1])
        gains[name] = _interval(gain, boots[:, 1], boots)
    return gains | rows


def candidate_lists(market: Market, impressions: pa.Table) -> np.ndarray:
    """Return each row's list of creatives, int32 [N, C] rows, -1 = padding."""
    ts_us = impressions[Column.REQUEST_TS].cast(pa.int64()).to_numpy()
    lists = market.live_lists(market.ad_rows(impressions[Column.AD_ID]), ts_us)
    if Column.CANDIDATE_CREATIVE_IDS not in impressions.column_names:
        return lists
    logged = impressions[Column.CANDIDATE_CREATIVE_IDS].combine_chunks()
    named = np.nonzero(pc.is_valid(logged).to_numpy(zero_copy_only=False))[0]
    lengths = pc.list_value_length(logged.take(pa.array(named))).to_numpy()
    width = max(lists.shape[1], int(lengths.max(initial=0)))
    wide = np.full((len(lists), width), -1, np.int32)
    wide[:, : lists.shape[1]] = lists
    wide[named] = -1
    row = np.repeat(named, lengths)
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    wide[row, np.arange(len(row)) - first] = market.creative_rows(logged.flatten())
    return wide


def list_probabilities(
    market: Market, impressions: pa.Table, lists: np.ndarray
) -> np.ndarray:
    """Return the true CTR of every creative of each list, float64 [N, C].

    It is the CTR in the row's own slot; NaN marks padding.
    """
    row, place = np.nonzero(lists >= 0)
    creative = lists[row, place].astype(np.int64)
    taken = impressions.select(
        [
            name
            for name in (Column.USER_ID, Column.SLOT, DEVICE)
            if name in impressions.column_names
        ]
    ).take(pa.array(row))
    p = np.full(lists.shape, np.nan)
    p[row, place] = market.click_probability(
        taken[Column.USER_ID],
        market.ad_ids.take(pa.array(market.creative_ad[creative])),
        market.creative_ids.take(pa.array(creative)),
        taken[Column.SLOT].to_numpy(),
        _devices(taken),
    )
    return p


def resampled_sums(sums: np.ndarray, *, num_resamples: int, seed: int) -> np.ndarray:
    """Return totals of requests drawn with replacement, float64 [B, S].

    Args:
        sums: float64 [R, S], one row per request.
        num_resamples: B.
        seed: equal seeds draw equal requests.
    """
    rng = np.random.default_rng(seed)
    if len(sums) > _MAX_BAGS:
        bag = rng.permutation(len(sums)) % _MAX_BAGS
        sums = _sums(bag, sums, _MAX_BAGS)
    size = max(len(sums), 1)
    times = rng.multinomial(len(sums), np.full(size, 1 / size), num_resamples)
    return times[:, : len(sums)] @ sums


def _codes(ids: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Return the distinct ids in order of appearance and each row's index."""
    encoded = pc.dictionary_encode(ids).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # no rows at all
        return pa.array([], pa.string()), np.zeros(0, np.int64)
    return encoded.dictionary, encoded.indices.to_numpy()


def _sums(codes: np.ndarray, columns: np.ndarray, size: int) -> np.ndarray:
    """Return sums of columns [N, S] by code, float64 [size, S]."""
    return np.stack(
        [np.bincount(codes, column, minlength=size) for column in columns.T], 1
    )


def _devices(table: pa.Table) -> pa.ChunkedArray | None:
    return table[DEVICE] if DEVICE in table.column_names else None


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide, NaN where there is nothing to divide by."""
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)


def _interval(
    value: np.ndarray, above: np.ndarray, boots: np.ndarray
) -> dict[str, float]:
    """Return a ratio with its interval; column 0 of `boots` is the denominator."""
    ratios = _ratio(above, boots[:, 0])
    ratios = ratios[~np.isnan(ratios)]
    low, high = np.quantile(ratios, [0.025, 0.975]) if len(ratios) else (np.nan, np.nan)
    return {"value": float(value[0]), "low": float(low), "high": float(high)}
