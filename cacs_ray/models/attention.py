"""What a user liked, as seen from the ad at hand.

B  rows   L  values of a list field   D  embedding width
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cacs_ray.features.batch import FeatureTensors
from cacs_ray.features.spec import FieldSpec
from cacs_ray.models.embeddings import EmbeddingTables


class InterestAttention(nn.Module):
    """Attention over a user's list with the ad's value of that vocabulary as query.

    Beside the attended mean it gives its product with the query and the share of
    the list that is exactly the query: the strongest plain sign of interest.

    Args:
        interest: a category_list field of the user.
        target: an id or category field of the ad with the same vocabulary.
        dim: D.
    """

    def __init__(self, interest: FieldSpec, target: FieldSpec, dim: int) -> None:
        super().__init__()
        self.interest, self.target = interest, target
        self.query = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.query.weight)
        self.sharpness = 1.0 / math.sqrt(dim)
        self.width = 2 * dim + 1
        """Numbers per row of the output."""

    def forward(
        self, context: FeatureTensors, tables: EmbeddingTables
    ) -> Float[Tensor, "B W"]:
        """Return attended mean, its product with the query, and the share."""
        listed = context[self.interest.key]
        wanted = context[self.target.key]
        query = tables(self.target, wanted)
        asked = self.query(query) * self.sharpness
        if tables.is_small(self.interest, listed.shape[1]):
            attended, share = self._by_value(listed, wanted, asked, tables)
        else:
            attended, share = self._by_place(listed, wanted, asked, tables)
        return torch.cat([attended, attended * query, share], dim=-1)

    def _by_place(
        self, listed: Tensor, wanted: Tensor, asked: Tensor, tables: EmbeddingTables
    ) -> tuple[Tensor, Tensor]:
        """Attend over the places of the lists."""
        mask = listed > 0
        values = tables(self.interest, listed)
        logits = torch.einsum("bld,bd->bl", values, asked)
        # An empty list has no weights at all instead of equal ones on padding.
        lowest = torch.finfo(logits.dtype).min
        weights = logits.masked_fill(~mask, lowest).softmax(-1) * mask
        attended = torch.einsum("bld,bl->bd", values, weights)
        is_match = mask & (listed == wanted.unsqueeze(-1))
        share = is_match.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
        return attended, share

    def _by_value(
        self, listed: Tensor, wanted: Tensor, asked: Tensor, tables: EmbeddingTables
    ) -> tuple[Tensor, Tensor]:
        """Attend over the values of a small vocabulary: equal places are one.

        The same sums as by place, as products of matrices.
        """
        counts = tables.listed_counts(self.interest, listed)
        table = tables.small_table(self.interest)
        logits = asked @ table.T
        lowest = torch.finfo(logits.dtype).min
        highest = logits.detach().masked_fill(counts == 0, lowest).amax(-1, True)
        raised = counts * (logits - highest).clamp(max=0.0).exp()
        weights = raised / raised.sum(-1, keepdim=True).clamp(min=1e-30)
        share = counts.gather(1, wanted.unsqueeze(-1)) / counts.sum(
            -1, keepdim=True
        ).clamp(min=1)
        return weights @ table, share


def interest_pairs(
    fields: tuple[FieldSpec, ...],
) -> list[tuple[FieldSpec, FieldSpec]]:
    """Return each list field of the user with the ad field that can ask it."""
    targets = {
        field.vocabulary: field
        for field in reversed(fields)
        if field.of == "ad" and field.encoding == "index"
    }
    return [
        (field, targets[field.vocabulary])
        for field in fields
        if field.of == "user"
        and field.encoding == "index_list"
        and field.vocabulary in targets
    ]
