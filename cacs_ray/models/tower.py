"""Parts that both models are built from: a residual tower, the position logit."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from cacs_ray.models.embeddings import gather_rows


class Tower(nn.Module):
    """One hidden layer beside a straight line, with a small start.

    The straight line keeps simple things simple: with it a dot product of two
    towers starts as a bilinear model of the fields.
    """

    def __init__(
        self, num_inputs: int, hidden: int, num_outputs: int, scale: float
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_inputs, hidden)
        self.out = nn.Linear(hidden, num_outputs)
        self.straight = nn.Linear(num_inputs, num_outputs, bias=False)
        with torch.no_grad():
            for layer in (self.out, self.straight):
                layer.weight.mul_(scale)
            self.out.bias.zero_()

    def forward(self, rows: Float[Tensor, "N W"]) -> Float[Tensor, "N H"]:
        """Return the tower's output of each row."""
        bent: Tensor = self.out(functional.relu(self.hidden(rows)))
        return bent + self.straight(rows)


class PositionLogit(nn.Module):
    """What a slot adds to the click logit; slot 0 adds nothing.

    Learnt in training, left out at decision time. Slots beyond the last known one
    count as the last.
    """

    def __init__(self, num_slots: int) -> None:
        super().__init__()
        self.beyond_first = nn.Parameter(torch.zeros(num_slots - 1))

    def forward(self, slot: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the logit of each row's slot."""
        logits = functional.pad(self.beyond_first, (1, 0)).unsqueeze(-1)
        return gather_rows(logits, slot.clamp(0, len(logits) - 1)).squeeze(-1)
