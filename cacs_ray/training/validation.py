"""What a model costs on rows that it did not learn from."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cacs_ray.features.batch import Batch
from cacs_ray.training.prefetch import ahead
from cacs_ray.training.rows import Rows
from cacs_ray.training.steps import Step


def _alone(sums: Tensor) -> Tensor:
    return sums


@torch.no_grad()
def judge(
    step: Step,
    rows: Rows,
    *,
    batch_size: int,
    rank: int = 0,
    num_workers: int = 1,
    over_workers: Callable[[Tensor], Tensor] = _alone,
) -> dict[str, float]:
    """Return the parts of the loss over all rows, and their `loss`.

    Args:
        step: gives the parts; left in evaluation mode.
        rows: one row or more, the same for every worker.
        batch_size: rows at once, of all workers together.
        rank: number of this worker.
        num_workers: workers that share the rows; with fewer rows than workers each
            takes all.
        over_workers: sums a tensor over the workers.
    """
    step.eval()
    device = next(step.parameters()).device
    if len(rows) < num_workers:
        rank, num_workers = 0, 1
    starts = range(0, len(rows), batch_size)
    shared = [np.arange(s, min(s + batch_size, len(rows))) for s in starts]
    blocks = [block[rank::num_workers] for block in shared if len(block) > rank]
    sums: dict[str, Tensor] = {}
    totals: dict[str, Tensor] = {}

    def made(block: np.ndarray) -> Batch:
        return rows.batch(block, device)

    with ahead(made, blocks) as batches:
        for batch in batches:
            # The bare module: a wrapped one would wait for the other workers.
            parts, weights = step.parts(batch), step.totals(batch)
            for name, value in parts.items():
                weight = weights[name].double()
                sums[name] = sums.get(name, torch.zeros(())) + value * weight
                totals[name] = totals.get(name, torch.zeros(())) + weight
    names = sorted(sums)
    both = [*(sums[n] for n in names), *(totals[n] for n in names)]
    summed = over_workers(torch.stack([value.double() for value in both]))
    summed, weight_sums = summed.chunk(2)
    means = (summed / weight_sums.clamp(min=1e-30)).float()
    by_name = dict(zip(names, means.unbind(), strict=True))
    by_name["loss"] = step.loss(by_name)
    return {name: float(value) for name, value in sorted(by_name.items())}
