"""Every logged list through a model, block by block."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cacs_ray.features.batch import Batch, EncodedLog
from cacs_ray.models.ranker import Ranker
from cacs_ray.models.selector import Selector

_BLOCK = 8192


@torch.inference_mode()
def score_lists(
    log: EncodedLog, score: Callable[[Batch], tuple[Tensor, Tensor]]
) -> tuple[np.ndarray, np.ndarray]:
    """Score every logged list.

    Args:
        log: N impressions.
        score: a batch -> its lists' scores [B, C], and what makes the score of the
            shown creative a click logit in its slot, [B].

    Returns:
        float32 [N, C] scores, padding 0, as wide as the widest list; float32 [N]
        click logits of the shown creatives in their slots.
    """
    scores = np.zeros((len(log), log.lists.shape[1]), np.float32)
    logits = np.zeros(len(log), np.float32)
    for start in range(0, len(log), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(log)))
        batch = log.batch(rows)
        listed, offset = score(batch)
        shown = listed.gather(1, batch.shown_index.unsqueeze(1)).squeeze(1)
        logits[rows] = (shown + offset).numpy()
        scores[rows, : listed.shape[1]] = listed.numpy()
    return scores, logits


def selector_scores(selector: Selector, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return a batch's scores and click offsets, as `score_lists` asks for them."""
    scores = selector.score(
        selector.user_vectors(batch.context),
        selector.creative_vectors(batch.creatives),
        batch.creative_index,
    )
    return scores, selector.click_offset(batch.context) + selector.position(batch.slot)


def ranker_scores(
    ranker: Ranker, batch: Batch, creative_vectors: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return a batch's logits and their position's, as `score_lists` asks for them.

    Args:
        ranker: in evaluation mode.
        batch: B impressions with K distinct creatives.
        creative_vectors: float32 [K, D], the selector's vectors of these creatives;
            None for a ranker that reads none.
    """
    scores = ranker.combine(
        ranker.encode_context(batch.context),
        ranker.encode_creatives(batch.creatives, creative_vectors),
        batch.creative_index,
    )
    return scores, ranker.position(batch.slot)
