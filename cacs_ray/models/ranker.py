"""The ranker: click probability of an ad with a creative, from all features.

As the teacher it reads the creative's own fields. As the serving ranker it is fed
with the selector's creative vectors, and it also answers for an ad whose creative
is not chosen yet.

    B  rows (request, ad)   K  distinct creatives   C  creatives per list, padded
    D  width of the selector's vectors   W  width of a side's part
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, field_validator
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
from cacs_ray.models.attention import InterestAttention, interest_pairs
from cacs_ray.models.coins import coins, next_throw, row_numbers
from cacs_ray.models.embeddings import (
    EmbeddingTables,
    FieldEncoder,
    Storage,
    Widths,
    gather_rows,
)
from cacs_ray.models.selector import Selector, SelectorConfig
from cacs_ray.models.tower import PositionLogit, Tower
from cacs_ray.schema import Side

Sharing = Literal["own", "frozen", "fine_tuned", "joint"]

READS_VECTORS: tuple[Sharing, ...] = ("frozen", "joint")
"""Ways of sharing in which the ranker is given the selector's vectors."""

PART_SCALE = 0.3
"""Start of the last layers of both sides."""


class RankerConfig(Config):
    """Sizes of the ranker."""

    dim: int = Field(gt=0)
    """Width of one embedding."""
    storage: Storage = "float32"
    """How embeddings are kept; bfloat16 takes half the memory, rounded at random so
    that small steps are not lost."""
    content_dim: int = Field(gt=0)
    """Width of a projected vector, text or image."""
    hidden: int = Field(gt=0)
    """Width of each side's hidden layer and of the deep layer."""
    interaction_dim: int = Field(gt=0)
    """Width in which the two sides meet: as they are, and as a product."""
    num_cross_layers: int = Field(ge=0)
    cross_rank: int = Field(gt=0)
    num_slots: int = Field(gt=0)
    """Slots with their own position logit; later ones count as the last."""
    blank_share: float = Field(ge=0, lt=1)
    """Share of training rows whose creative is hidden, so that an ad can be ranked
    before its creative is known."""
    sharing: Sharing
    """own: the creative's fields; frozen: the selector's vectors as they are;
    fine_tuned: the selector's creative tower, trained on by clicks of the ranker
    alone; joint: the selector's vectors, selector and ranker trained on together."""
    keeps_own_fields: bool
    """Whether the creative's fields are read beside shared vectors."""
    gate: GateConfig
    """Its signal is `training`: nobody teaches a ranker's gate afterwards."""

    @field_validator("gate")
    @classmethod
    def _learns_in_training(cls, gate: GateConfig) -> GateConfig:
        if gate.signal != "training":
            raise ValueError("signal must be 'training' in a ranker")
        return gate


class CrossLayers(nn.Module):
    r"""Low-rank cross layers: :math:`x_{l+1} = x_0 \odot (U V x_l + b) + x_l`.

    Source: Wang et al., "DCN V2", WWW 2021, section 3.5.
    """

    def __init__(self, width: int, num_layers: int, rank: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Linear(width, rank, bias=False) for _ in range(num_layers)
        )
        self.up = nn.ModuleList(nn.Linear(rank, width) for _ in range(num_layers))

    def forward(self, first: Float[Tensor, "B C X"]) -> Float[Tensor, "B C X"]:
        """Return the crossed rows; without layers the input."""
        crossed = first
        for down, up in zip(self.down, self.up, strict=True):
            crossed = first * up(down(crossed)) + crossed
        return crossed


class Ranker(nn.Module):
    """Context and creative meet in a product, cross layers and a deep layer.

    What depends on the context is computed once per row, what depends on the
    creative once per distinct creative; only the meeting is per pair.

    Args:
        spec: fitted fields; any subset.
        config: sizes and what is shared.
        counts: impressions by vocabulary; None when weights will be loaded.
        shared: the selector's sizes; needed unless sharing is `own`.

    Raises:
        ValueError: sharing without the selector's sizes.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        config: RankerConfig,
        counts: Counts | None = None,
        shared: SelectorConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        context_fields = spec.of("user", "request", "ad")
        reads_own = config.sharing == "own" or config.keeps_own_fields
        creative_fields = spec.of("creative") if reads_own else ()
        widths = Widths(config.dim, config.content_dim)
        self.tables = EmbeddingTables(
            spec,
            (*context_fields, *creative_fields),
            config.dim,
            config.storage,
        )
        self.gate = AdaptiveDropout(
            spec, (*context_fields, *creative_fields), config.gate, counts
        )
        self.context_encoder = FieldEncoder(context_fields, widths)
        self.interests = nn.ModuleList(
            InterestAttention(interest, target, config.dim)
            for interest, target in interest_pairs(context_fields)
        )
        self.creative_encoder = FieldEncoder(creative_fields, widths)
        self.tower = _shared_tower(spec, config, counts, shared)
        self._build_head(config, shared)

    def _build_head(self, config: RankerConfig, shared: SelectorConfig | None) -> None:
        interest_width = sum(i.width for i in self._interests())
        vector_size = (
            0 if config.sharing == "own" or shared is None else shared.vector_size
        )
        part = 2 * config.interaction_dim
        self.context_tower = Tower(
            self.context_encoder.width + interest_width,
            config.hidden,
            part,
            PART_SCALE,
        )
        reads_fields = bool(self.creative_encoder.fields) or vector_size == 0
        self.creative_tower = Tower(
            reads_fields * self.creative_encoder.width + vector_size,
            config.hidden,
            part,
            PART_SCALE,
        )
        width = 3 * config.interaction_dim
        self.cross = CrossLayers(width, config.num_cross_layers, config.cross_rank)
        self.deep = nn.Linear(width, config.hidden)
        self.out = nn.Linear(config.hidden, 1)
        self.straight = nn.Linear(width, 1, bias=False)
        self.position = PositionLogit(config.num_slots)
        self.base_logit = nn.Parameter(torch.zeros(()))
        nn.init.zeros_(self.out.bias)
        # The plain dot product of both sides, until training says otherwise.
        with torch.no_grad():
            self.straight.weight[:, -config.interaction_dim :] = 1.0

    def forward(
        self,
        context: FeatureTensors,
        creatives: FeatureTensors,
        creative_index: Int[Tensor, "B C"],
        slot: Int[Tensor, " B"] | None = None,
        creative_vectors: Float[Tensor, "K D"] | None = None,
    ) -> Float[Tensor, "B C"]:
        """Score the creatives of each row.

        Args:
            context: user.*, request.* and ad.* fields, B rows.
            creatives: creative.* and ad.* fields of K creatives, row 0 blank.
            creative_index: rows of `creatives`; 0 = the creative is unknown.
            slot: slot of each row; None leaves the position out, as decisions do.
            creative_vectors: the selector's vectors of these creatives; read only
                when sharing is `frozen` or `joint`.

        Returns:
            Click logits. Padding gets the logit of the ad alone: mask it.
        """
        index = self.blank_some(creative_index, context)
        creative_part = self.encode_creatives(creatives, creative_vectors)
        logits = self.combine(self.encode_context(context), creative_part, index)
        return logits if slot is None else logits + self.position(slot).unsqueeze(-1)

    def encode_context(self, context: FeatureTensors) -> Float[Tensor, "b W"]:
        """Return the part of request and ad; one row for all without any field."""
        keep = self.gate(context, ("ad",))
        parts = [self.context_encoder(context, self.tables, keep)]
        parts += [interest(context, self.tables) for interest in self._interests()]
        part: Tensor = self.context_tower(torch.cat(parts, dim=-1))
        return part

    def encode_creatives(
        self,
        creatives: FeatureTensors,
        creative_vectors: Float[Tensor, "K D"] | None = None,
    ) -> Float[Tensor, "k W"]:
        """Return the part of each creative; row 0, the unknown one, is zero.

        No request changes it: serving may keep it per creative.
        """
        parts = []
        if self.creative_encoder.fields:
            keep = self.gate(creatives, ("creative",))
            parts.append(self.creative_encoder(creatives, self.tables, keep))
        if self.tower is not None:
            parts.append(self.tower.creative_vectors(creatives))
        elif self.config.sharing in READS_VECTORS:
            if creative_vectors is None:
                raise ValueError(
                    f"sharing is {self.config.sharing!r}: creative_vectors are needed"
                )
            parts.append(creative_vectors)
        if not parts:
            parts.append(self.creative_encoder(creatives, self.tables))
        part: Tensor = self.creative_tower(torch.cat(parts, dim=-1))
        is_blank = torch.arange(len(part), device=part.device) == 0
        return part.masked_fill(is_blank.unsqueeze(-1), 0.0)

    def combine(
        self,
        context_part: Float[Tensor, "b W"],
        creative_part: Float[Tensor, "k W"],
        creative_index: Int[Tensor, "B C"],
    ) -> Float[Tensor, "B C"]:
        """Return the logit of each row with each creative of its list."""
        dim = self.config.interaction_dim
        creative = gather_rows(creative_part, creative_index)
        context = context_part.unsqueeze(1).expand(*creative_index.shape, -1)
        product = context[..., :dim] * creative[..., :dim]
        met = torch.cat([context[..., dim:], creative[..., dim:], product], dim=-1)
        deep = self.out(functional.relu(self.deep(self.cross(met))))
        logits: Tensor = (deep + self.straight(met)).squeeze(-1)
        return self.base_logit + logits

    def gate_choices(
        self, context: FeatureTensors, creatives: FeatureTensors
    ) -> tuple[list[GateChoice], list[GateChoice]]:
        """Return what a learnt gate decides for ads and for creatives, for its cost."""
        return (
            self.gate.choices(context, ("ad",)),
            self.gate.choices(creatives, ("creative",)),
        )

    def expect_cold(self, shares: Mapping[Side, float]) -> None:
        """Tell the gates which share of creatives and ads will be new."""
        self.gate.expect_cold(shares)
        if self.tower is not None:
            self.tower.gate.expect_cold(shares)

    def _interests(self) -> Iterator[InterestAttention]:
        for interest in self.interests:
            assert isinstance(interest, InterestAttention)
            yield interest

    def blank_some(
        self, creative_index: Int[Tensor, "B C"], context: FeatureTensors
    ) -> Int[Tensor, "B C"]:
        """Hide the creatives of some rows in training, see `blank_share`."""
        share = self.config.blank_share
        if not self.training or share == 0:
            return creative_index
        coin = coins(row_numbers(context, len(creative_index)), next_throw())
        return creative_index.masked_fill(coin.unsqueeze(-1) < share, 0)


def _shared_tower(
    spec: FeatureSpec,
    config: RankerConfig,
    counts: Counts | None,
    shared: SelectorConfig | None,
) -> Selector | None:
    """Build the tower that fine-tuning goes on with, if it does."""
    if config.sharing == "own":
        return None
    if shared is None:
        raise ValueError(f"sharing is {config.sharing!r}: the selector is needed")
    if config.sharing in READS_VECTORS:
        return None
    tower = Selector(spec, shared, counts)
    tower.freeze_all_but_creatives()
    return tower
