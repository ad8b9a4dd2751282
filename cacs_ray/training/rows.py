"""The rows of one window, and the batches that are made of them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from cacs_ray.features.batch import Batch, EncodedLog, ListsWanted


@dataclass(frozen=True, slots=True)
class Rows:
    """What a stage sees of one window."""

    log: EncodedLog
    wanted: ListsWanted
    """Rows whose whole list is read."""
    teacher_logits: np.ndarray | None = None
    """float32 [N, C], may be memory-mapped."""

    def __len__(self) -> int:
        return len(self.log)

    def batch(self, rows: np.ndarray, device: torch.device) -> Batch:
        """Return some rows as tensors on a device."""
        taught = None if self.teacher_logits is None else self.teacher_logits[rows]
        return moved(self.log.batch(rows, taught, wanted=self.wanted), device)


def moved(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with every tensor on a device."""
    if device.type == "cpu":
        return batch
    changes: dict[str, object] = {}
    for item in fields(batch):
        value = getattr(batch, item.name)
        if isinstance(value, Tensor):
            changes[item.name] = value.to(device, non_blocking=True)
        elif isinstance(value, Mapping):
            changes[item.name] = {
                k: v.to(device, non_blocking=True) for k, v in value.items()
            }
    return replace(batch, **changes)  # type: ignore[arg-type]
