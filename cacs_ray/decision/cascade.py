"""decide(): the one decision function of serving, batch, replay and simulation.

    R requests   A candidate ads of all requests, flat   C creatives per list

Models are passed in as `Scorers`, local or remote; what is decided here is who is
asked, in which order, and what is done with the answers.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.decision import creative_policy
from cacs_ray.decision.auction import allocate_slots
from cacs_ray.decision.candidates import Candidates, Decisions, Scorers
from cacs_ray.schema import PolicyName


class DecisionSettings(Config):
    """What is configured about a decision."""

    policy: PolicyName = "cacs"
    """How creatives are chosen and when, relative to ranking."""
    num_slots: int = Field(default=1, ge=1)
    """Places per request."""
    epsilon: float = Field(default=0.0, ge=0, le=1)
    """Share of uniform choice in the policies that follow a score."""
    thompson_prior: Literal["log", "content"] = "log"
    """Beta prior of the policy `thompson`: the same for all creatives, as fitted on
    the log, or moved by the selector's score, see `creative_policy.content_prior`."""
    reserve_micros: int = Field(default=1, ge=1)
    """Least price of a click; an ad that bids less is not shown."""


@dataclass(frozen=True, slots=True)
class _Selection:
    """One creative per ad, with the scores that led to it."""

    creative_row: np.ndarray
    """int32 [A]"""
    propensity: np.ndarray
    """float64 [A]"""
    scores: np.ndarray
    """float64 [A, C]; NaN for padding, everywhere if the policy has no scores."""
    score: np.ndarray
    """float64 [A]: score of the choice, or NaN."""
    probabilities: np.ndarray
    """float64 [A, C]: what the choice was drawn from."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The two halves of every policy: creatives, and CTRs to rank with."""

    selection: _Selection
    pctr: np.ndarray


Order = Callable[[Candidates, Scorers, DecisionSettings], Awaitable[_Outcome]]


async def decide(
    candidates: Candidates, scorers: Scorers, settings: DecisionSettings
) -> Decisions:
    """Choose a creative for every candidate ad, rank the ads, run the auction.

    Orders, by `settings.policy`:

    - `cacs`: the selector chooses, the ranker prices the chosen creative.
    - `post_rank`: the ranker prices the ad with its creative unknown; then the
      selector chooses. The creative has no say in which ads win.
    - `parallel`: both at once; the CTR of the ad is moved by how far the chosen
      creative stands out, sigmoid(logit(pctr of the ad) + score of the choice -
      mean score of its list) (after Peri-CR, arXiv 2312.12750).
    - `rank_only`: nobody chooses: the first creative of each list is priced. What a
      service does that knows no creatives, and what selection is timed against.
    - `random`, `popular`, `thompson`, `teacher`: as `cacs`, with another choice.

    The choice for one request depends on that request alone, see
    `creative_policy.request_generators`. A pinned creative has propensity 1.

    Args:
        candidates: the ads of one or many requests, at least one creative per ad.
        scorers: the models.
        settings: policy, slots, exploration, reserve.

    Returns:
        One decision per candidate ad, shown or not.

    Raises:
        ValueError: a stage ("selector", "teacher", "ranker", "counts") answered with
            the wrong shape or a number that is not finite (or, for the ranker, not
            a probability); or an ad has no creative.
    """
    if not candidates.mask.any(1).all():
        raise ValueError("candidates: every ad needs at least one creative")
    outcome = await _ORDERS[settings.policy](candidates, scorers, settings)
    allocation = allocate_slots(
        candidates.request_index,
        outcome.pctr,
        candidates.bid_micros,
        num_slots=settings.num_slots,
        reserve_micros=settings.reserve_micros,
    )
    return Decisions(
        creative_row=outcome.selection.creative_row,
        propensity=outcome.selection.propensity,
        selector_score=outcome.selection.score,
        pctr=outcome.pctr,
        ecpm_micros=allocation.ecpm_micros,
        slot=allocation.slot,
        price_micros=allocation.price_micros,
        list_scores=outcome.selection.scores,
        list_probabilities=outcome.selection.probabilities,
    )


async def _select_then_rank(
    candidates: Candidates, scorers: Scorers, settings: DecisionSettings
) -> _Outcome:
    selection = await _SELECTIONS[settings.policy](candidates, scorers, settings)
    return _Outcome(selection, await _pctr(candidates, scorers, selection.creative_row))


async def _rank_then_select(
    candidates: Candidates, scorers: Scorers, settings: DecisionSettings
) -> _Outcome:
    pctr = await _pctr(candidates, scorers, _unknown_creative(candidates))
    return _Outcome(await _select_by_student(candidates, scorers, settings), pctr)


async def _side_by_side(
    candidates: Candidates, scorers: Scorers, settings: DecisionSettings
) -> _Outcome:
    selection, pctr = await asyncio.gather(
        _select_by_student(candidates, scorers, settings),
        _pctr(candidates, scorers, _unknown_creative(candidates)),
    )
    moved = creative_policy.moved_by_standout(
        pctr, selection.score, selection.scores, candidates.mask
    )
    return _Outcome(selection, moved)


async def _select_by_student(
    candidates: Candidates, scorers: Scorers, settings: DecisionSettings
) -> _Selection:
    scores = await scorers.selector_scores(candidates)
    return _choose_best(candidates, scores, "selector", settings.epsilon)


async def _select_by_teacher(
    candidates: Candidates, scorers: Scorers, settings: DecisionSettings
) -> _Selection:
    scores = await scorers.teacher_scores(candidates)
    return _choose_best(candidates, scores, "teacher", settings.epsilon)


async def _select_popular(
    candidates: Candidates, scorers: Scorers, settings: DecisionSettings
) -> _Selection:
    clicks, impressions = await scorers.counts(candidates)
    scores = creative_policy.smoothed_ctr(clicks, impressions, scorers.prior())
    return _choose_best(candidates, scores, "counts", settings.epsilon)


async def _select_random(
    candidates: Candidates,
    scorers: Scorers,  # noqa: ARG001 - one signature for all selections
    settings: DecisionSettings,  # noqa: ARG001
) -> _Selection:
    return _choose(candidates, creative_policy.uniform_probabilities(candidates.mask))


async def _select_first(
    candidates: Candidates,
    scorers: Scorers,  # noqa: ARG001
    settings: DecisionSettings,  # noqa: ARG001
) -> _Selection:
    first = np.zeros(candidates.creative_lists.shape)
    first[:, 0] = 1.0
    return _choose(candidates, first)


async def _select_thompson(
    candidates: Candidates, scorers: Scorers, settings: DecisionSettings
) -> _Selection:
    mask = candidates.mask
    counts = tuple(
        _checked_scores(column, mask, candidates, "counts")
        for column in await scorers.counts(candidates)
    )
    fitted = scorers.prior()
    alpha, beta = np.full(mask.shape, fitted[0]), np.full(mask.shape, fitted[1])
    if settings.thompson_prior == "content":
        scores = await scorers.selector_scores(candidates)
        scores = _checked_scores(scores, mask, candidates, "selector")
        alpha, beta = creative_policy.content_prior(scores, mask, fitted)
    probabilities = np.zeros(mask.shape)
    generators = creative_policy.request_generators(
        candidates.request_ids, purpose="posterior"
    )
    for ads, rng in zip(_ads_by_request(candidates), generators, strict=True):
        probabilities[ads] = creative_policy.thompson_probabilities(
            counts[0][ads], counts[1][ads], mask[ads], (alpha[ads], beta[ads]), rng
        )
    return _choose(candidates, _explored(candidates, probabilities))


def _choose_best(
    candidates: Candidates, scores: np.ndarray, stage: str, epsilon: float
) -> _Selection:
    mask = candidates.mask
    scores = _checked_scores(scores, mask, candidates, stage)
    probabilities = creative_policy.epsilon_greedy_probabilities(scores, mask, epsilon)
    return _choose(candidates, _explored(candidates, probabilities), scores)


def _explored(candidates: Candidates, probabilities: np.ndarray) -> np.ndarray:
    """Bound how much is explored, where the operator says so."""
    if candidates.max_exploration is None:
        return probabilities
    return creative_policy.cap_exploration(probabilities, candidates.max_exploration)


def _choose(
    candidates: Candidates,
    probabilities: np.ndarray,
    scores: np.ndarray | None = None,
) -> _Selection:
    """Draw one creative per ad; pins come before the choice."""
    if scores is None:
        scores = np.full(probabilities.shape, np.nan)
    if candidates.max_share is not None:
        probabilities = creative_policy.cap_shares(
            probabilities, candidates.max_share, candidates.mask
        )
    lists, pinned = candidates.creative_lists, candidates.pinned
    # Nothing is drawn where nothing is left to chance: the draw would not matter.
    is_certain = bool(((probabilities == 0) | (probabilities == 1)).all())
    uniforms = np.zeros(len(lists)) if is_certain else _uniforms(candidates)
    choice = creative_policy.draw_choice(probabilities, uniforms)
    ads = np.arange(len(lists))
    is_pinned = pinned > 0
    in_list = lists == pinned[:, None]
    index = np.where(is_pinned, in_list.argmax(1), choice.index)
    score = np.where(is_pinned & ~in_list.any(1), np.nan, scores[ads, index])
    return _Selection(
        creative_row=np.where(is_pinned, pinned, lists[ads, index]).astype(np.int32),
        propensity=np.where(is_pinned, 1.0, choice.propensity),
        scores=scores,
        score=score,
        probabilities=np.where(is_pinned[:, None], in_list, probabilities),
    )


def _uniforms(candidates: Candidates) -> np.ndarray:
    """One number in [0, 1) per ad, from the generator of its request."""
    uniforms = np.zeros(len(candidates.request_index))
    generators = creative_policy.request_generators(
        candidates.request_ids, purpose="choice"
    )
    for ads, rng in zip(_ads_by_request(candidates), generators, strict=True):
        uniforms[ads] = rng.random(ads.stop - ads.start)
    return uniforms


def _ads_by_request(candidates: Candidates) -> list[slice]:
    requests = np.arange(len(candidates.request_ids) + 1)
    edges = np.searchsorted(candidates.request_index, requests).tolist()
    return [slice(*pair) for pair in itertools.pairwise(edges)]


def _unknown_creative(candidates: Candidates) -> np.ndarray:
    return np.zeros(len(candidates.ad_ids), np.int32)


async def _pctr(
    candidates: Candidates, scorers: Scorers, creative_row: np.ndarray
) -> np.ndarray:
    pctr = np.asarray(await scorers.pctr(candidates, creative_row), np.float64)
    size = len(candidates.ad_ids)
    if pctr.shape != (size,):
        raise ValueError(f"ranker: expected {size} numbers, got shape {pctr.shape}")
    is_bad = ~((pctr >= 0) & (pctr <= 1))
    if is_bad.any():
        ad = int(is_bad.argmax())
        raise ValueError(
            f"ranker: pctr {pctr[ad]} of ad {candidates.ad_ids[ad]!r} is not a"
            " probability"
        )
    return pctr


def _checked_scores(
    scores: np.ndarray, mask: np.ndarray, candidates: Candidates, stage: str
) -> np.ndarray:
    """Return float64 scores with NaN for padding, or name the ad that has a bad one."""
    scores = np.asarray(scores, np.float64)
    if scores.shape != mask.shape:
        raise ValueError(f"{stage}: expected shape {mask.shape}, got {scores.shape}")
    is_finite = np.isfinite(scores)
    if not is_finite.all() and (is_bad := mask & ~is_finite).any():
        ad = candidates.ad_ids[int(is_bad.any(1).argmax())]
        raise ValueError(f"{stage}: a score of ad {ad!r} is not finite")
    return np.where(mask, scores, np.nan)


_SELECTIONS: Final = {
    "cacs": _select_by_student,
    "rank_only": _select_first,
    "random": _select_random,
    "popular": _select_popular,
    "thompson": _select_thompson,
    "teacher": _select_by_teacher,
}

_ORDERS: Final[dict[PolicyName, Order]] = {
    "cacs": _select_then_rank,
    "post_rank": _rank_then_select,
    "parallel": _side_by_side,
    "rank_only": _select_then_rank,
    "random": _select_then_rank,
    "popular": _select_then_rank,
    "thompson": _select_then_rank,
    "teacher": _select_then_rank,
}
