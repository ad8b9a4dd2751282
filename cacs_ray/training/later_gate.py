"""A learnt gate that asks rows later than training how far memory can be trusted.

Everything else of the selector is trained and stays as it is. The gate then stands in
its evaluation form (the expectation of the coin), so a step costs no more than one of
training and only some ten numbers move.

After Lin et al., SIGIR 2022, "adaptive dropout"; the later slice is our choice among
the open ones.
"""

from typing import Final

import numpy as np
import torch

from cacs_ray.training.rows import Rows
from cacs_ray.training.steps import StudentStep

_NUM_PASSES: Final = 3
_LEARNING_RATE: Final = 0.03


def teach_gate(step: StudentStep, later: Rows, *, batch_size: int, seed: int) -> float:
    """Train the gate of a trained selector in place, if its signal is `later`.

    Args:
        step: the selector with the loss that it was trained by.
        later: rows after the training window, with the lists that the loss reads.
        batch_size: rows of a step.
        seed: of their order.

    Returns:
        Mean loss of the last pass; NaN where there is nothing to teach.
    """
    gate = step.selector.gate
    if gate.config.kind != "learnt" or gate.config.signal != "later":
        return float("nan")
    parameters = list(gate.networks.parameters())
    if not parameters or not len(later):
        return float("nan")
    others = [p for p in step.parameters() if p.requires_grad]
    rng = np.random.default_rng(seed)
    device = next(step.parameters()).device
    optimizer = torch.optim.Adam(parameters, lr=_LEARNING_RATE)
    step.eval()
    _require(others, wanted=False)
    gate.networks.requires_grad_(requires_grad=True)
    losses: list[float] = []
    for _ in range(_NUM_PASSES):
        order = rng.permutation(len(later))
        losses = []
        for start in range(0, len(order), batch_size):
            rows = np.sort(order[start : start + batch_size])
            loss = step(later.batch(rows, device))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    gate.networks.requires_grad_(requires_grad=False)
    _require(others, wanted=True)
    return float(np.mean(losses))


def _require(parameters: list[torch.nn.Parameter], *, wanted: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad = wanted
