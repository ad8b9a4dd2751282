"""One policy on one window -> the figures of a study's row.

    N  impressions     C  creatives per list

Everything is weighted by impressions. A figure that the window cannot give is left out.
"""

from typing import Final

import numpy as np

from cacs_ray.decision.creative_policy import smoothed_ctr
from cacs_ray.evaluation.policies import importance, policy_probabilities
from cacs_ray.evaluation.scored_log import BUCKETS, ScoredLog, rare_ads, take_column
from cacs_ray.metrics import agreement, ranking
from cacs_ray.metrics.creative import nsctr, sctr
from cacs_ray.metrics.off_policy import dr, effective_sample_size, snips
from cacs_ray.study.window import JudgedWindow

Figures = dict[str, float]
"""Names to numbers; what a window cannot give is not there."""


def policy_figures(window: JudgedWindow, policy: str) -> Figures:
    """Value a policy by what was logged and, on a market, by what is true.

    Args:
        window: the judged window; `cacs` follows its selector scores.
        policy: one of `evaluation.policies.available_policies`, not `logged`.

    Returns:
        `sctr`, `nsctr`, `snips`, `dr`, `lift` (percent of sCTR above random choice on
        the same rows), `lift_choice` (the same where the selector tells creatives
        apart), `effective_sample_size`; with a truth `true_ctr` and the normalised
        gains: `gain`, `gain/rare`, `gain/frequent` (halves of ads by what training
        saw of them), `gain/new` (choice among creatives never shown) and
        `gain/seen BUCKET` (choice among the creatives of one bucket).
    """
    target = policy_probabilities(window.scored, policy)
    figures = _logged_figures(window.scored, policy, target)
    if window.true_ctr is not None:
        figures |= _true_figures(window, policy, target)
    return _known(figures)


def _known(figures: Figures) -> Figures:
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def _logged_figures(log: ScoredLog, policy: str, target: np.ndarray) -> Figures:
    label = log.label.astype(np.float64)
    weight = log.weight.astype(np.float64)
    match = log.shown(target)
    rho = importance(log, policy, match)
    figures = {
        "sctr": sctr(label, match, weight),
        "nsctr": nsctr(label, match, log.ad_row, weight).value,
        "snips": snips(label, rho, weight),
        "lift": _lift(log, match, np.full(len(log), True)),
        "lift_choice": _lift(log, match, log.has_choice),
        "effective_sample_size": effective_sample_size(rho, weight),
    }
    if log.pctr is not None:
        model = np.where(log.mask, log.pctr, 0.0).astype(np.float64)
        modelled = np.einsum("nc,nc->n", target, model)
        figures["dr"] = dr(label, rho, weight, modelled, log.shown(model))
    return figures


def _lift(log: ScoredLog, match: np.ndarray, rows: np.ndarray) -> float:
    """Percent of sCTR above uniform choice on some rows."""
    label, weight = log.label.astype(np.float64), log.weight.astype(np.float64)
    uniform = 1.0 / np.maximum(log.mask.sum(1), 1)
    ours = sctr(label[rows], match[rows], weight[rows])
    random = sctr(label[rows], uniform[rows], weight[rows])
    return 100 * (ours / random - 1) if random > 0 else float("nan")


def _true_figures(window: JudgedWindow, policy: str, target: np.ndarray) -> Figures:
    assert window.true_ctr is not None
    log, weight = window.scored, window.scored.weight.astype(np.float64)
    truth = np.where(log.mask, window.true_ctr, np.nan)
    value = np.nansum(np.where(target > 0, target * truth, 0.0), axis=1)
    is_rare = rare_ads(log)
    figures = {
        "true_ctr": float(np.average(value, weights=weight)),
        "gain": list_gain(truth, target, weight),
        "gain/rare": list_gain(truth[is_rare], target[is_rare], weight[is_rare]),
        "gain/frequent": list_gain(truth[~is_rare], target[~is_rare], weight[~is_rare]),
    }
    preference = _preference(log, policy)
    if preference is None:
        return figures
    buckets = np.where(log.mask, log.buckets, -1)
    for number, name in enumerate(BUCKETS):
        rows = np.flatnonzero((buckets == number).sum(1) >= 2)
        inside = buckets[rows] == number
        key = "gain/new" if number == 0 else f"gain/seen {name}"
        figures[key] = list_gain(
            np.where(inside, truth[rows], np.nan),
            _best_inside(preference[rows], inside),
            weight[rows],
        )
    return figures


def _best_inside(scores: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return 1 for what a policy would choose if only these creatives were there."""
    chosen = np.zeros(scores.shape)
    best = np.where(inside, scores, -np.inf).argmax(1)
    chosen[np.arange(len(scores)), best] = 1.0
    return chosen


def _preference(log: ScoredLog, policy: str) -> np.ndarray | None:
    """Return what a policy orders a list by, [N, C]; None where it has no order."""
    if policy == "cacs":
        return log.selector_scores
    if policy == "teacher":
        return log.teacher_scores
    if policy == "popular":
        clicks, shows = log.clicks, log.impressions
        return smoothed_ctr(
            clicks.astype(np.float64), shows.astype(np.float64), log.prior
        )[log.lists]
    return None


def list_gain(truth: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    """Normalised gain of a choice over lists: 0 as random choice, 1 as the oracle.

    Args:
        truth: float64 [N, C], click probabilities, NaN for what cannot be chosen.
        target: float64 [N, C], probability of each choice, 0 where truth is NaN.
        weight: float64 [N], >= 0.

    Returns:
        sum w (chosen - random) / sum w (oracle - random); NaN where no list leaves
        a choice.

    >>> truth = np.array([[0.1, 0.3], [0.2, np.nan]])
    >>> list_gain(truth, np.array([[0.0, 1.0], [1.0, 0.0]]), np.ones(2))
    1.0
    >>> list_gain(truth, np.array([[0.5, 0.5], [1.0, 0.0]]), np.ones(2))
    0.0
    """
    if not len(truth):
        return float("nan")
    random, oracle = np.nanmean(truth, axis=1), np.nanmax(truth, axis=1)
    chosen = np.where(target > 0, target * truth, 0.0).sum(1)
    winnable = float(weight @ (oracle - random))
    return float(weight @ (chosen - random)) / winnable if winnable > 0 else np.nan


FEWEST_CLICKS: Final = 200
"""True clicks below which a bucket's calibration is not told."""
_NUM_BINS: Final = 20


def calibration_figures(
    predicted: np.ndarray, truth: np.ndarray, weight: np.ndarray, bucket: np.ndarray
) -> Figures:
    """Hold a ranker's probabilities of what was chosen against the truth.

    Args:
        predicted: float64 [N], of the chosen creatives.
        truth: float64 [N], their click probabilities.
        weight: float64 [N], impressions.
        bucket: int [N], number in `BUCKETS` of the chosen creative.

    Returns:
        `calibration` (predicted / true clicks), `ece` (mean |predicted - true| over
        20 bins of equal mass by prediction) and `calibration/BUCKET` for buckets
        with `FEWEST_CLICKS`.

    >>> half = np.full(4, 0.5)
    >>> calibration_figures(half, half / 2, np.ones(4), np.zeros(4, int))
    {'calibration': 2.0, 'ece': 0.25}
    """
    gap = weight * (predicted - truth)
    order = np.argsort(predicted, kind="stable")
    gaps = [abs(float(gap[rows].sum())) for rows in np.array_split(order, _NUM_BINS)]
    figures = {
        "calibration": float(weight @ predicted) / float(weight @ truth),
        "ece": sum(gaps) / float(weight.sum()),
    }
    for number, name in enumerate(BUCKETS):
        inside = bucket == number
        clicks = float(weight[inside] @ truth[inside])
        if clicks >= FEWEST_CLICKS:
            ratio = float(weight[inside] @ predicted[inside]) / clicks
            figures[f"calibration/{name}"] = ratio
    return figures


def chosen_calibration(window: JudgedWindow) -> Figures:
    """Judge the serving ranker where the selector's choice is shown instead.

    The best of noisy scores promises too much (winner's curse), so the choice is
    where a ranker must be honest. Ads and slots are those of the log.

    Raises:
        ValueError: the window has no truth or no `pctr`.
    """
    log = window.scored
    if window.true_ctr is None or log.pctr is None:
        raise ValueError("a truth and pctr are needed")
    chosen = policy_probabilities(log, "cacs").argmax(1)
    return calibration_figures(
        take_column(log.pctr, chosen).astype(np.float64),
        take_column(window.true_ctr, chosen),
        log.weight.astype(np.float64),
        take_column(log.buckets, chosen),
    )


def model_figures(log: ScoredLog, logits: np.ndarray) -> Figures:
    """Judge a selector's click logits on the shown creatives, and its order.

    Args:
        log: with the selector's scores and, if it has one, the teacher's.
        logits: float64 [N]: of a click on the shown creative in its slot.

    Returns:
        `auc`, `gauc_request`, `ne`, `ece`, `calibration` (predicted clicks /
        clicks) and, against the teacher, `top1` and `kendall_tau`.
    """
    predicted = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    weight = log.weight.astype(np.float64)
    level = ranking.calibration(log.label, predicted, weight)
    figures = {
        "auc": ranking.auc(log.label, predicted, weight),
        "gauc_request": ranking.gauc(log.label, predicted, log.request_row, weight),
        "ne": ranking.normalised_entropy(log.label, predicted, weight),
        "ece": level.ece,
        "calibration": level.ratio,
    }
    if log.teacher_scores is not None:
        sides = log.selector_scores, log.teacher_scores, log.mask
        for name, of_lists in (
            ("top1", agreement.top1_agreement(*sides)),
            ("kendall_tau", agreement.kendall_tau(*sides)),
        ):
            known = np.isfinite(of_lists)
            if known.any():
                figures[name] = float(
                    np.average(of_lists[known], weights=weight[known])
                )
    return _known(figures)
