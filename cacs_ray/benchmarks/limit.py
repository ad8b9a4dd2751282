"""How far a training step is from what the memory could give."""

from functools import cache
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from cacs_ray.benchmarks.machine import memory_bandwidth
from cacs_ray.benchmarks.outcome import Outcome, compared
from cacs_ray.features.batch import ROW, Batch
from cacs_ray.models.embeddings import EmbeddingTables

_FLOAT_BYTES: Final = 4
_PER_ACTIVATION: Final = 4
"""Written and read forward, its gradient written and read backward."""
_PER_PARAMETER: Final = 9
"""Read forward; its gradient written and read; weight and both moments of Adam read
and written."""


def limit(what: str, step: nn.Module, batch: Batch, rows_per_s: float) -> Outcome:
    """Return our rows per second beside those at the measured memory bandwidth."""
    moved = bytes_per_row(step, batch)
    bandwidth = _bandwidth()
    note = f"{moved:,.0f} bytes a row at {bandwidth / 1e9:.1f} GB/s"
    return compared(what, [rows_per_s], [bandwidth / moved], "rows/s", None, note)


def bytes_per_row(step: nn.Module, batch: Batch) -> float:
    """Return the bytes that a step must move per row, at the least.

    Every number that a linear layer takes or gives is an activation; of tables
    only the distinct rows that the batch looks up count, as parameters, however
    large the table is. Nothing is assumed to stay in a cache.

    Args:
        step: called with the batch once, in training mode.
        batch: a typical one.
    """
    numbers = 0
    looked_up: dict[str, list[Tensor]] = {}

    def linear(_: nn.Module, given: tuple[Any, ...], made: Tensor) -> None:
        nonlocal numbers
        numbers += (given[0].numel() + made.numel()) * _PER_ACTIVATION

    hooks = [
        module.register_forward_hook(linear)
        for module in step.modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.no_grad():
            step(batch)
    finally:
        for hook in hooks:
            hook.remove()
    for key, value in (*batch.context.items(), *batch.creatives.items()):
        if key != ROW and not value.is_floating_point():
            looked_up.setdefault(key, []).append(value.flatten())
    width = max((tables.dim for tables in _tables(step)), default=0)
    touched = sum(
        len(np.unique(torch.cat(values).numpy())) for values in looked_up.values()
    )
    table_parameters = {id(p) for m in _tables(step) for p in m.parameters()}
    dense = sum(p.numel() for p in step.parameters() if id(p) not in table_parameters)
    numbers += _PER_PARAMETER * (touched * width + dense)
    return numbers * _FLOAT_BYTES / len(batch.label)


def _tables(step: nn.Module) -> list[EmbeddingTables]:
    return [part for part in step.modules() if isinstance(part, EmbeddingTables)]


@cache
def _bandwidth() -> float:
    return memory_bandwidth()
