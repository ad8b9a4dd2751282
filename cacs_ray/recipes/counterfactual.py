"""A release's choices on the decisions that another one logged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cacs_ray.bundle import Predictor
from cacs_ray.data.feedback import join_feedback, read_table
from cacs_ray.decision.creative_policy import epsilon_greedy_probabilities
from cacs_ray.errors import InputError
from cacs_ray.evaluation.counterfactual import LoggedChoices, would_have_won
from cacs_ray.evaluation.off_policy import OffPolicySettings
from cacs_ray.schema import CLICKS, DECISIONS, Column

_BLOCK: Final = 16_384
ATTRIBUTION_WINDOW_S: Final = 1800.0


def ask_decisions(
    challenger: str | Path,
    decisions: str | Path,
    clicks: str | Path,
    *,
    champion: str | Path | None = None,
    settings: OffPolicySettings | None = None,
) -> dict[str, Any]:
    """Ask the decision log whether a release would have won.

    Only what was shown counts, and only what was chosen by the champion: fallback
    answers and those of other releases say nothing of it.

    Args:
        challenger: directory of the bundle that is asked about.
        decisions: decision log, a file or a directory.
        clicks: clicks, a file or a directory.
        champion: directory of the bundle that decided; None takes every release of
            the log, and compares with the log as it is.
        settings: of the estimates.

    Returns:
        The answer of `counterfactual.would_have_won`; "refused", with no figure but
        `decisions`, when the champion showed nothing in the log.

    Raises:
        InputError: a file is damaged.
    """
    decided = read_table(str(decisions), DECISIONS)
    rival = None if champion is None else Predictor.load(champion)
    release = None if rival is None else rival.bundle_id
    own = _own_decisions(decided, release)
    if not own.num_rows:
        reason = _shown_nothing(decided, release)
        return {"status": "refused", "reason": reason, "decisions": 0.0}
    shown = join_feedback(
        own,
        read_table(str(clicks), CLICKS),
        attribution_window_s=ATTRIBUTION_WINDOW_S,
    ).sort_by(Column.REQUEST_ID)
    log = logged_choices(shown)
    target = choices(Predictor.load(challenger), shown)
    before = None if rival is None else choices(rival, shown)
    return would_have_won(log, target, before, settings)


def _own_decisions(decided: pa.Table, release: str | None) -> pa.Table:
    """Keep what one release chose and showed."""
    is_kept = pc.and_(
        pc.is_valid(decided[Column.SLOT]), pc.invert(decided[Column.IS_FALLBACK])
    )
    if release is not None:
        is_kept = pc.and_(is_kept, pc.equal(decided[Column.RELEASE], release))
    return decided.filter(is_kept)


def _shown_nothing(decided: pa.Table, release: str | None) -> str:
    """Say that a release is not in the log, and which are: often the log is another."""
    known = sorted(set(decided[Column.RELEASE].to_pylist()))
    return (
        f"release {release or 'any'} showed nothing of its own; the log has "
        f"{', '.join(known[:5]) or 'no rows'}"
    )


def logged_choices(shown: pa.Table) -> LoggedChoices:
    """Return shown decisions as arrays, creatives numbered over the whole log.

    Raises:
        InputError: a shown creative is not among the candidates of its decision.
    """
    place, width = _places(shown)
    ids = pc.list_flatten(shown[Column.CANDIDATE_CREATIVE_IDS])
    numbered = ids.combine_chunks().dictionary_encode()
    creative = np.full((shown.num_rows, width), -1, np.int64)
    creative[place] = numbered.indices.to_numpy()
    found = pc.index_in(shown[Column.CREATIVE_ID], value_set=numbered.dictionary)
    is_shown = creative == found.fill_null(-2).to_numpy()[:, None]
    if not is_shown.any(1).all():
        raise InputError(
            "a shown creative is not among the candidates of its decision",
            field=Column.CANDIDATE_CREATIVE_IDS,
            rule="shown_candidate",
        )
    requests = shown[Column.REQUEST_ID].combine_chunks().dictionary_encode()
    return LoggedChoices(
        creative=creative,
        shown_index=is_shown.argmax(1),
        propensity=shown[Column.PROPENSITY].to_numpy(),
        label=shown[Column.IS_CLICKED].cast(pa.float64()).to_numpy(),
        request=requests.indices.to_numpy().astype(np.int64),
    )


def choices(predictor: Predictor, shown: pa.Table) -> np.ndarray:
    """Return what a release would choose among the candidates, float64 [N, C].

    Creatives that it does not know get nothing; a row of unknown ones is all zero.
    """
    place, width = _places(shown)
    ids = pc.list_flatten(shown[Column.CANDIDATE_CREATIVE_IDS]).to_pylist()
    lists = np.zeros((shown.num_rows, width), np.int64)
    lists[place] = predictor.catalogue.creative_row(ids)
    parts = list(_scored(predictor, shown, lists))
    chosen = epsilon_greedy_probabilities(np.concatenate(parts), lists > 0, 0.0)
    return np.where((lists > 0).any(1, keepdims=True), chosen, 0.0)


def _scored(
    predictor: Predictor, shown: pa.Table, lists: np.ndarray
) -> Iterator[np.ndarray]:
    for start in range(0, shown.num_rows, _BLOCK):
        context = predictor.context(shown.slice(start, _BLOCK))
        yield predictor.selector_scores(context, lists[start : start + _BLOCK])


def _places(shown: pa.Table) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """Return row and column of every listed candidate, and the longest list."""
    lists = shown[Column.CANDIDATE_CREATIVE_IDS].combine_chunks()
    rows = pc.list_parent_indices(lists).to_numpy()
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    column = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
    return (rows, column), int(column.max(initial=0)) + 1
