"""What workers tell each other in a step; with one worker, nothing.

U  distinct rows of one worker's batch   D  embedding width
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True, slots=True)
class Exchange:
    """Sums over all workers, on the process group that Ray Train set up."""

    num_workers: int

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over workers of a small tensor, in its own type."""
        if self.num_workers > 1:
            dist.all_reduce(values)
        return values

    def mean_rows(
        self, rows: Int[Tensor, " U"], gradient: Float[Tensor, "U D"]
    ) -> tuple[Int[Tensor, " T"], Float[Tensor, "T D"]]:
        """Return the mean gradient over workers of all rows that any of them names.

        Rows travel as numbers and values, never as the table. Every worker gets the
        same answer, bit for bit: summed in the order of the workers.
        """
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.num_workers)]
        dist.all_gather(sizes, torch.tensor([len(rows)]))
        longest = int(max(size.item() for size in sizes))
        all_rows = self._gathered(rows, longest)
        all_values = self._gathered(gradient, longest)
        kept = [slice(0, int(size.item())) for size in sizes]
        named = torch.cat([r[k] for r, k in zip(all_rows, kept, strict=True)])
        values = torch.cat([v[k] for v, k in zip(all_values, kept, strict=True)])
        distinct, place = torch.unique(named, return_inverse=True)
        total = torch.zeros(len(distinct), gradient.shape[1])
        total.index_add_(0, place, values)
        return distinct, total / self.num_workers

    def _gathered(self, own: Tensor, longest: int) -> list[Tensor]:
        padded = own.new_zeros((longest, *own.shape[1:]))
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.num_workers)]
        dist.all_gather(parts, padded)
        return parts
