"""Two selectors on a window that no trial saw."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from cacs_ray.features.batch import EncodedLog
from cacs_ray.metrics.creative import sctr
from cacs_ray.metrics.intervals import (
    pool_clusters,
    ratio_intervals,
    sum_by_cluster,
)
from cacs_ray.models.selector import Selector

_BLOCK = 8192
_REPLICATES = 1000


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a selector does on N logged impressions."""

    click_loss: np.ndarray
    """float64 [N]: log loss of each click or non-click, in nats."""
    is_shown: np.ndarray
    """float64 [N]: 1 where its choice is the creative that was shown."""


@torch.inference_mode()
def judge(selector: Selector, log: EncodedLog) -> Judgement:
    """Score every logged list with a selector."""
    selector.eval()
    losses, choices = [], []
    for start in range(0, len(log), _BLOCK):
        batch = log.batch(np.arange(start, min(start + _BLOCK, len(log))))
        scores = selector.score(
            selector.user_vectors(batch.context),
            selector.creative_vectors(batch.creatives),
            batch.creative_index,
        )
        shown = scores.gather(1, batch.shown_index.unsqueeze(1)).squeeze(1)
        logits = shown + selector.click_offset(batch.context)
        logits = logits + selector.position(batch.slot)
        losses.append(
            F.binary_cross_entropy_with_logits(logits, batch.label, reduction="none")
        )
        lowest = torch.finfo(scores.dtype).min
        best = scores.masked_fill(~batch.creative_mask, lowest).argmax(1)
        choices.append(best == batch.shown_index)
    return Judgement(
        torch.cat(losses).double().numpy(), torch.cat(choices).double().numpy()
    )


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
