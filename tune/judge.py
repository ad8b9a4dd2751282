"""Two models on a window that no trial saw."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from cacs_ray.features.batch import EncodedLog
from cacs_ray.metrics.creative import sctr
from cacs_ray.metrics.intervals import (
    pool_clusters,
    ratio_intervals,
    sum_by_cluster,
)
from cacs_ray.models.selector import Selector
from cacs_ray.study.scoring import score_lists, selector_scores

_REPLICATES = 1000


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a selector, or a ranker in its place, does on N logged impressions."""

    click_loss: np.ndarray
    """float64 [N]: log loss of each click or non-click, in nats."""
    is_shown: np.ndarray
    """float64 [N]: 1 where its choice is the creative that was shown."""


def judge(selector: Selector, log: EncodedLog) -> Judgement:
    """Score every logged list with a selector."""
    selector.eval()
    return judgement(log, *score_lists(log, partial(selector_scores, selector)))


def judgement(log: EncodedLog, scores: np.ndarray, logits: np.ndarray) -> Judgement:
    """Return what scores of `score_lists` say of a model.

    Args:
        log: N impressions.
        scores: float [N, C], of every creative of a list; padding may hold anything.
        logits: float [N], click logits of the shown creatives in their slots.
    """
    is_real = log.lists[log.list_row] > 0
    best = np.where(is_real, scores, -np.inf).argmax(1)
    logits = logits.astype(np.float64)
    # log(1 + exp(s)) - y s: the log loss, whatever the sign and size of s.
    click_loss = np.logaddexp(0.0, logits) - np.asarray(log.label) * logits
    return Judgement(click_loss, (best == log.shown_index).astype(np.float64))


def compare(
    best: Judgement, default: Judgement, log: EncodedLog
) -> Mapping[str, object]:
    """Compare the best trial with the default on the same impressions.

    Returns:
        Click losses and sCTR of both, and the default's loss less the best one's
        with its 95 % interval over requests: above 0 the best one is better.
    """
    weight = np.asarray(log.weight, np.float64)
    gain = weight * (default.click_loss - best.click_loss)
    cluster = pool_clusters(np.asarray(log.request_row))
    sums = sum_by_cluster(np.stack([gain, weight], axis=1), cluster)
    interval = ratio_intervals(sums, replicates=_REPLICATES)
    low, high = float(interval.low[0]), float(interval.high[0])
    sides = {"best": best, "default": default}
    return {
        "impressions": float(weight.sum()),
        "click_loss": {
            name: float(np.average(side.click_loss, weights=weight))
            for name, side in sides.items()
        },
        "sctr": {
            name: sctr(np.asarray(log.label), side.is_shown, weight)
            for name, side in sides.items()
        },
        "gain_nats": {
            "value": float(interval.value[0]),
            "low": low,
            "high": high,
        },
        "is_better": low > 0,
    }
