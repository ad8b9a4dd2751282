"""What was decided, as it goes over the wire."""

import numpy as np
import pyarrow as pa

from cacs_ray.schema import Column
from serve.api import (
    CandidateDecision,
    CandidatePreview,
    CreativeOption,
    DecideAnswer,
    Placement,
    PreviewAnswer,
    Rejected,
)
from serve.decided import Decided


def decide_answer(decided: Decided, *, is_explained: bool = False) -> DecideAnswer:
    """Return the answer to a request: the ads that are shown, best first."""
    origin = decided.origin
    slot = decided.decisions.slot
    by_slot = np.argsort(slot, kind="stable")
    shown = _decision_rows(decided, by_slot[slot[by_slot] >= 0])
    explained = _decision_rows(decided, np.arange(len(slot) if is_explained else 0))
    return DecideAnswer(
        request_id=decided.request_id,
        release=origin.release,
        policy=origin.policy,
        is_fallback=origin.is_fallback,
        fallback_reason=origin.fallback_reason,
        rung=decided.rung,
        placements=[_placement(row) for row in shown],
        rejected=_rejected(decided.prepared.rejects),
        decisions=explained if is_explained else None,
    )


def preview_answer(decided: Decided) -> PreviewAnswer:
    """Return all that led to a decision, for every candidate ad."""
    origin = decided.origin
    rows = _decision_rows(decided, np.arange(len(decided.decisions.slot)))
    return PreviewAnswer(
        request_id=decided.request_id,
        release=origin.release,
        policy=origin.policy,
        is_fallback=origin.is_fallback,
        fallback_reason=origin.fallback_reason,
        rung=decided.rung,
        seconds=decided.seconds,
        candidates=[
            CandidatePreview(**row.model_dump(), creatives=_options(decided, place))
            for place, row in enumerate(rows)
        ],
        rejected=_rejected(decided.prepared.rejects),
    )


def _options(decided: Decided, ad: int) -> list[CreativeOption]:
    """Return every creative that an ad could have shown."""
    decisions, catalogue = decided.decisions, decided.catalogue
    listed = decided.prepared.candidates.creative_lists[ad]
    scores, probabilities = decisions.list_scores, decisions.list_probabilities
    return [
        CreativeOption(
            creative_id=catalogue.creative_ids[row],
            selector_score=None if scores is None else _finite(scores[ad, place]),
            probability=0.0
            if probabilities is None
            else float(probabilities[ad, place]),
            impressions=float(catalogue.impressions[row]),
            clicks=float(catalogue.clicks[row]),
        )
        for place, row in enumerate(listed.tolist())
        if row > 0
    ]


def _finite(score: float) -> float | None:
    return float(score) if np.isfinite(score) else None


def _decision_rows(decided: Decided, ads: np.ndarray) -> list[CandidateDecision]:
    """Return the decisions of some candidate ads, by their index."""
    candidates, decisions = decided.prepared.candidates, decided.decisions
    creative_ids = decided.catalogue.creative_ids
    rows = []
    for ad in ads.tolist():
        is_shown = decisions.slot[ad] >= 0
        listed = candidates.creative_lists[ad]
        rows.append(
            CandidateDecision(
                ad_id=candidates.ad_ids[ad],
                creative_id=creative_ids[decisions.creative_row[ad]],
                candidate_creative_ids=[
                    creative_ids[row] for row in listed[listed > 0]
                ],
                propensity=float(decisions.propensity[ad]),
                selector_score=_finite(decisions.selector_score[ad]),
                pctr=float(decisions.pctr[ad]),
                bid_micros=int(candidates.bid_micros[ad]),
                ecpm_micros=float(decisions.ecpm_micros[ad]),
                slot=int(decisions.slot[ad]) if is_shown else None,
                price_micros=int(decisions.price_micros[ad]) if is_shown else None,
            )
        )
    return rows


def _placement(row: CandidateDecision) -> Placement:
    return Placement(
        slot=row.slot or 0,
        ad_id=row.ad_id,
        creative_id=row.creative_id,
        pctr=row.pctr,
        ecpm_micros=row.ecpm_micros,
        price_micros=row.price_micros or 0,
        propensity=row.propensity,
        selector_score=row.selector_score,
    )


def _rejected(rejects: pa.Table) -> list[Rejected]:
    ads, rules = rejects[Column.AD_ID].to_pylist(), rejects[Column.RULE].to_pylist()
    return [
        Rejected(ad_id=ad_id, rule=rule) for ad_id, rule in zip(ads, rules, strict=True)
    ]
