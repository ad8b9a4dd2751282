"""Target policies as probabilities over each logged list, [N, C].

They come from the same functions that choose in serving. `cacs`, `post_rank` and
`parallel` choose the same creative and differ only in which ads win, which a log
of shown ads cannot tell: they are one row here, told apart on the market.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from cacs_ray.decision import creative_policy
from cacs_ray.evaluation.scored_log import ScoredLog

SAME_CHOICE: Final = {"cacs": ("post_rank", "parallel")}
"""Policies that are one row of an offline report."""

LOGGED: Final = "logged"
"""The policy that made the log."""


def policy_probabilities(log: ScoredLog, name: str, *, seed: int = 0) -> np.ndarray:
    """Return float64 [N, C]: what the policy would have done on each list.

    Args:
        log: the scored log.
        name: one of `available_policies(log)`.
        seed: for the posterior draws of `thompson`.

    Returns:
        Rows that sum to one. For `logged`, one on the shown creative.
    """
    return _PROBABILITIES[name](log, seed)


def available_policies(log: ScoredLog) -> tuple[str, ...]:
    """Return the policies that this log can value; `teacher` needs its scores."""
    return tuple(
        name
        for name in _PROBABILITIES
        if name != "teacher" or log.teacher_scores is not None
    )


def importance(log: ScoredLog, name: str, target: np.ndarray) -> np.ndarray:
    """Return target / logging probability of the shown creative, float64 [N].

    The logging policy needs no correction against itself: 1 for `logged`.
    """
    if name == LOGGED:
        return target
    return target / log.logged_propensity


def _logged(log: ScoredLog, seed: int) -> np.ndarray:  # noqa: ARG001
    probabilities = np.zeros(log.lists.shape)
    probabilities[np.arange(len(log)), log.shown_index] = 1.0
    return probabilities


def _random(log: ScoredLog, seed: int) -> np.ndarray:  # noqa: ARG001
    return creative_policy.uniform_probabilities(log.mask)


def _popular(log: ScoredLog, seed: int) -> np.ndarray:  # noqa: ARG001
    ctr = creative_policy.smoothed_ctr(
        log.clicks.astype(np.float64), log.impressions.astype(np.float64), log.prior
    )
    return _greedy(log, ctr[log.lists])


def _thompson(log: ScoredLog, seed: int) -> np.ndarray:
    # Counts are those of the end of training, so equal lists have equal odds.
    distinct, row = np.unique(log.lists, axis=0, return_inverse=True)
    odds = creative_policy.thompson_probabilities(
        log.clicks[distinct].astype(np.float64),
        log.impressions[distinct].astype(np.float64),
        distinct > 0,
        log.prior,
        np.random.default_rng(seed),
    )
    probabilities: np.ndarray = odds[row]
    return probabilities


def _cacs(log: ScoredLog, seed: int) -> np.ndarray:  # noqa: ARG001
    return _greedy(log, log.selector_scores)


def _teacher(log: ScoredLog, seed: int) -> np.ndarray:  # noqa: ARG001
    if log.teacher_scores is None:
        raise ValueError("teacher_scores: the log has none")
    return _greedy(log, log.teacher_scores)


def _greedy(log: ScoredLog, scores: np.ndarray) -> np.ndarray:
    return creative_policy.epsilon_greedy_probabilities(scores, log.mask, 0.0)


_PROBABILITIES: Final[dict[str, Callable[[ScoredLog, int], np.ndarray]]] = {
    LOGGED: _logged,
    "random": _random,
    "popular": _popular,
    "thompson": _thompson,
    "cacs": _cacs,
    "teacher": _teacher,
}
