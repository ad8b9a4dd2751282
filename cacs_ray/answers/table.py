"""Decisions as a table in the contract's schema: batch output and serving log."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cacs_ray.answers.prepare import PreparedRequests
from cacs_ray.decision.candidates import Candidates, Decisions
from cacs_ray.features.catalogue import Catalogue
from cacs_ray.schema import DECISIONS, REQUESTS, Column


@dataclass(frozen=True, slots=True)
class DecisionOrigin:
    """Who decided: the policy, the release, and whether it was a fallback."""

    policy: str
    release: str
    is_fallback: bool = False
    fallback_reason: str | None = None


def decisions_table(
    prepared: PreparedRequests,
    decisions: Decisions,
    catalogue: Catalogue,
    origin: DecisionOrigin,
) -> pa.Table:
    """Return one row per candidate ad, in `schema.DECISIONS` order and types.

    Columns of the requests table that are not the contract's own (the declared
    request features) follow, as they were seen.
    """
    requests, candidates = prepared.requests, prepared.candidates
    num_rows = requests.num_rows
    is_shown = decisions.slot >= 0
    creative_ids = catalogue.creative_id_array
    lists, mask = _possible(candidates)
    ends = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.int32)
    candidate_ids = pa.ListArray.from_arrays(
        pa.array(ends), creative_ids.take(pa.array(lists[mask]))
    )
    columns = {
        Column.REQUEST_ID: requests[Column.REQUEST_ID],
        Column.REQUEST_TS: requests[Column.REQUEST_TS],
        Column.USER_ID: requests[Column.USER_ID],
        Column.AD_ID: requests[Column.AD_ID],
        Column.CREATIVE_ID: creative_ids.take(pa.array(decisions.creative_row)),
        Column.CANDIDATE_CREATIVE_IDS: candidate_ids,
        Column.PROPENSITY: decisions.propensity,
        Column.SELECTOR_SCORE: pa.array(decisions.selector_score, from_pandas=True),
        Column.PCTR: decisions.pctr,
        Column.BID_MICROS: requests[Column.BID_MICROS],
        Column.ECPM_MICROS: decisions.ecpm_micros,
        Column.SLOT: pa.array(decisions.slot, pa.int32(), mask=~is_shown),
        Column.PRICE_MICROS: pa.array(
            decisions.price_micros, pa.int64(), mask=~is_shown
        ),
        Column.POLICY: pa.repeat(origin.policy, num_rows),
        Column.RELEASE: pa.repeat(origin.release, num_rows),
        Column.IS_FALLBACK: pa.repeat(origin.is_fallback, num_rows),
        Column.FALLBACK_REASON: pa.repeat(
            pa.scalar(origin.fallback_reason, pa.string()), num_rows
        ),
    }
    table = pa.table([columns[field.name] for field in DECISIONS], schema=DECISIONS)
    own = set(REQUESTS.names) | set(DECISIONS.names)
    for name in requests.column_names:
        if name not in own:
            table = table.append_column(name, requests[name])
    return table


def _possible(candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Return what could be chosen, int32 [A, C], and which of it is no padding.

    Of a pinned ad that is the pin alone: the others had no chance, and whoever
    weights the log by propensities must not believe that they had.
    """
    lists, mask = candidates.creative_lists, candidates.mask
    is_pinned = candidates.pinned > 0
    if not is_pinned.any():
        return lists, mask
    lists, mask = lists.copy(), mask.copy()
    lists[is_pinned, 0] = candidates.pinned[is_pinned]
    mask[is_pinned] = np.arange(mask.shape[1]) == 0
    return lists, mask
