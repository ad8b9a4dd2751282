"""Figures of the models: the ranker's level and order, the student's agreement."""

from typing import Any, Final

import numpy as np

from cacs_ray.evaluation.policies import importance, policy_probabilities
from cacs_ray.evaluation.scored_log import BUCKETS, ScoredLog, take_column
from cacs_ray.metrics import agreement, ranking

LIST_LENGTHS: Final = {"2": (2, 2), "3-4": (3, 4), "5-8": (5, 8), "9+": (9, None)}
"""Slices by the number of real creatives in a list, both ends included."""


def ranker_report(log: ScoredLog) -> dict[str, Any]:
    """Judge the calibrated CTR of the serving ranker.

    Args:
        log: a scored log with `pctr`.

    Returns:
        `all`: every logged impression. `chosen`: impressions whose creative the
        selector would have chosen, weighted to stand for its decisions; the best of
        noisy scores promises too much, and this is where it would show. Each with
        `auc`, `gauc_user`, `gauc_request`, `log_loss`, `normalised_entropy`,
        `calibration` and, by bucket of the shown creative, `by_bucket`.
    """
    if log.pctr is None:
        raise ValueError("pctr: the log has none")
    predicted = log.shown(log.pctr).astype(np.float64)
    weight = log.weight.astype(np.float64)
    match = log.shown(policy_probabilities(log, "cacs"))
    return {
        "all": _ranker_figures(log, predicted, weight),
        "chosen": _ranker_figures(
            log, predicted, weight * importance(log, "cacs", match)
        ),
    }


def agreement_report(log: ScoredLog) -> dict[str, Any]:
    """Compare the student's order inside each list with the teacher's.

    Returns:
        `all`, `by_bucket` of the student's choice and `by_list_length`: each with
        `top1`, `kendall_tau`, `ndcg` (impression-weighted means over the lists that
        have a choice, NaN without one) and `impressions` behind them.
    """
    if log.teacher_scores is None:
        raise ValueError("teacher_scores: the log has none")
    scores = log.selector_scores, log.teacher_scores, log.mask
    values = {
        "top1": agreement.top1_agreement(*scores),
        "kendall_tau": agreement.kendall_tau(*scores),
        "ndcg": agreement.ndcg(*scores),
    }
    chosen = policy_probabilities(log, "cacs").argmax(1)
    bucket, length = take_column(log.buckets, chosen), log.mask.sum(1)
    return {
        "all": _mean_figures(log, values, length >= 2),
        "by_bucket": {
            name: _mean_figures(log, values, (bucket == number) & (length >= 2))
            for number, name in enumerate(BUCKETS)
        },
        "by_list_length": {
            name: _mean_figures(
                log, values, (length >= low) & (length <= (high or length.max()))
            )
            for name, (low, high) in LIST_LENGTHS.items()
        },
    }


def _ranker_figures(
    log: ScoredLog, predicted: np.ndarray, weight: np.ndarray
) -> dict[str, Any]:
    bucket = log.shown(log.buckets)
    # Row 0 is every unknown visitor: not one user, so not a group.
    user = np.where(log.user_row > 0, log.user_row, -1)
    return {
        "auc": ranking.auc(log.label, predicted, weight),
        "gauc_user": ranking.gauc(log.label, predicted, user, weight),
        "gauc_request": ranking.gauc(log.label, predicted, log.request_row, weight),
        "log_loss": ranking.log_loss(log.label, predicted, weight),
        "normalised_entropy": ranking.normalised_entropy(log.label, predicted, weight),
        "calibration": _calibration(log.label, predicted, weight, bins=True),
        "by_bucket": {
            name: {
                "auc": ranking.auc(log.label[rows], predicted[rows], weight[rows]),
                "calibration": _calibration(
                    log.label[rows], predicted[rows], weight[rows]
                ),
            }
            for number, name in enumerate(BUCKETS)
            if (rows := bucket == number).any()
        },
    }


def _calibration(
    label: np.ndarray, predicted: np.ndarray, weight: np.ndarray, *, bins: bool = False
) -> dict[str, Any]:
    result = ranking.calibration(label, predicted, weight)
    figures: dict[str, Any] = {
        "ratio": result.ratio,
        "ece": result.ece,
        "clicks": result.clicks,
    }
    if bins:
        figures["bins"] = {
            "predicted": result.bin_predicted.tolist(),
            "observed": result.bin_observed.tolist(),
            "impressions": result.bin_weight.tolist(),
        }
    return figures


def _mean_figures(
    log: ScoredLog, values: dict[str, np.ndarray], rows: np.ndarray
) -> dict[str, float]:
    """Impression-weighted means over some lists, leaving out what is NaN."""
    figures = {"impressions": float(log.weight[rows].sum())}
    for name, value in values.items():
        kept = rows & np.isfinite(value)
        mass = log.weight[kept].astype(np.float64)
        total = float(mass.sum())
        figures[name] = float(mass @ value[kept]) / total if total > 0 else float("nan")
    return figures
