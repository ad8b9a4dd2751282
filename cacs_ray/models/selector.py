"""The selector: two towers whose dot product orders the creatives of an ad.

The student of distillation. The creative tower does not see the request, so its
vectors are computed once per creative and kept; online the price of a creative is
one dot product.

    B  requests (rows)   K  distinct creatives   C  creatives per list, padded
    D  width of the shared vectors
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from cacs_ray.config import Config
from cacs_ray.features.batch import FeatureTensors
from cacs_ray.features.spec import FeatureSpec
from cacs_ray.models.adaptive_dropout import (
    AdaptiveDropout,
    Counts,
    GateChoice,
    GateConfig,
)
from cacs_ray.models.embeddings import (
    EmbeddingTables,
    FieldEncoder,
    Storage,
    Widths,
    gather_rows,
)
from cacs_ray.models.tower import PositionLogit, Tower

CATALOGUE_BLOCK = 16_384
"""Creatives that go through the tower at once."""

TOWER_SCALE = 0.3
"""Start of the towers' last layers: scores begin near zero but not at it."""


class SelectorConfig(Config):
    """Sizes of the selector."""

    dim: int = Field(gt=0)
    """Width of one embedding."""
    storage: Storage = "float32"
    """How embeddings are kept; bfloat16 takes half the memory, rounded at random so
    that small steps are not lost."""
    content_dim: int = Field(gt=0)
    """Width of a projected vector, text or image."""
    hidden: int = Field(gt=0)
    """Width of each tower's hidden layer."""
    vector_size: int = Field(gt=1)
    """D: width of the user and creative vectors, the appeal included."""
    num_slots: int = Field(gt=0)
    """Slots with their own position logit; later ones count as the last."""
    gate: GateConfig


class Selector(nn.Module):
    """User tower, creative tower, and what only the click loss needs.

    The last coordinate of a creative vector is its global appeal; that of every
    user vector is 1. Whatever depends on the request and the ad alone cancels
    inside one list: it is learnt beside the score (`click_offset`) and left out of
    every decision.

    Args:
        spec: fitted fields; any subset, at least one of a creative or an ad.
        config: sizes.
        counts: impressions by vocabulary; None when weights will be loaded.

    Raises:
        ValueError: there is no field to tell creatives apart.
    """

    def __init__(
        self, spec: FeatureSpec, config: SelectorConfig, counts: Counts | None = None
    ) -> None:
        super().__init__()
        self.config = config
        user_fields = spec.of("user", "request")
        creative_fields = spec.of("creative", "ad")
        if not creative_fields:
            raise ValueError("a selector needs a creative or ad field, got none")
        widths = Widths(config.dim, config.content_dim)
        self.tables = EmbeddingTables(spec, spec.fields, config.dim, config.storage)
        self.gate = AdaptiveDropout(spec, creative_fields, config.gate, counts)
        self.user_encoder = FieldEncoder(user_fields, widths)
        self.user_tower = Tower(
            self.user_encoder.width, config.hidden, config.vector_size - 1, TOWER_SCALE
        )
        self.creative_encoder = FieldEncoder(creative_fields, widths)
        self.creative_tower = Tower(
            self.creative_encoder.width, config.hidden, config.vector_size, TOWER_SCALE
        )
        self.offset_encoder = FieldEncoder(spec.of("user", "request", "ad"), widths)
        self.offset_tower = Tower(
            self.offset_encoder.width, config.hidden, 1, TOWER_SCALE
        )
        self.position = PositionLogit(config.num_slots)
        self.base_logit = nn.Parameter(torch.zeros(()))

    def user_vectors(self, context: FeatureTensors) -> Float[Tensor, "B D"]:
        """Return U(user, request); one row for all when there is no field at all."""
        tower = self.user_tower(self.user_encoder(context, self.tables))
        return functional.pad(tower, (0, 1), value=1.0)

    def creative_vectors(self, creatives: FeatureTensors) -> Float[Tensor, "K D"]:
        """Return V(creative, ad), which no request changes."""
        keep = self.gate(creatives)
        vectors: Tensor = self.creative_tower(
            self.creative_encoder(creatives, self.tables, keep)
        )
        return vectors

    def score(
        self,
        user_vectors: Float[Tensor, "b D"],
        creative_vectors: Float[Tensor, "K D"],
        creative_index: Int[Tensor, "B C"],
    ) -> Float[Tensor, "B C"]:
        """Return the dot product of each row with each creative of its list.

        Padding (index 0) gets the score of the blank creative: mask it.
        """
        listed = gather_rows(creative_vectors, creative_index)
        users = user_vectors.expand(len(creative_index), -1)
        return torch.bmm(listed, users.unsqueeze(-1)).squeeze(-1)

    def click_offset(self, context: FeatureTensors) -> Float[Tensor, " B"]:
        """Return what request and ad add to the click logit of a whole list."""
        offset: Tensor = self.offset_tower(self.offset_encoder(context, self.tables))
        return self.base_logit + offset.squeeze(-1)

    def gate_choices(self, creatives: FeatureTensors) -> list[GateChoice]:
        """Return what a learnt gate decides for these creatives, for its cost."""
        return self.gate.choices(creatives)

    def freeze_all_but_creatives(self) -> None:
        """Leave trainable only what `creative_vectors` is computed from."""
        self.requires_grad_(False)
        # The table is one: rows that no creative reads get no gradient anyway.
        for part in (
            self.creative_encoder,
            self.creative_tower,
            self.gate,
            self.tables,
        ):
            part.requires_grad_(True)
        self.gate.freeze_if_later()


@torch.inference_mode()
def catalogue_vectors(
    selector: Selector,
    features_of: Callable[[np.ndarray], FeatureTensors],
    num_rows: int,
) -> Float[Tensor, "K D"]:
    """Run the creative tower over a whole catalogue, block by block.

    Args:
        selector: in evaluation mode.
        features_of: catalogue rows -> their creative.* and ad.* fields.
        num_rows: K, rows of the catalogue, the blank row 0 included.

    Returns:
        V(c) by catalogue row; row 0 is zeros.
    """
    parts = [
        selector.creative_vectors(
            features_of(np.arange(start, min(start + CATALOGUE_BLOCK, num_rows)))
        )
        for start in range(0, num_rows, CATALOGUE_BLOCK)
    ]
    vectors = torch.cat(parts)
    vectors[0] = 0.0
    return vectors
