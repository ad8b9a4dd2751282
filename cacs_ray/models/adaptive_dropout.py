"""Adaptive dropout: rare identities are dropped so that content is learnt.

A creative's own embedding is memory: good for the frequent, noise for the rare,
nothing for the new. The gate decides per value, from how often it was shown, how
much of its embedding to trust. Content and category fields are never dropped.

    K  rows (distinct creatives of a batch, or ads)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from cacs_ray.config import Config
from cacs_ray.features.batch import FeatureTensors
from cacs_ray.features.spec import FeatureSpec, FieldSpec
from cacs_ray.models.coins import coins, next_throw, row_numbers
from cacs_ray.models.embeddings import module_key
from cacs_ray.schema import Side

GateKind = Literal["none", "fixed", "frequency", "learnt"]
GateSignal = Literal["training", "later"]

Counts = Mapping[str, np.ndarray]
"""Vocabulary name -> impressions of each index as of training end, [size]."""

SIDES: tuple[Side, ...] = ("creative", "ad")
GATE_HIDDEN = 8
MOST_COLD = 0.9


class GateConfig(Config):
    """How identities are dropped."""

    kind: GateKind
    """none; fixed: always at `rate`; frequency: k / (k + impressions); learnt: a
    small network that starts at the frequency rule and pays for leaving it."""
    rate: float = Field(ge=0, lt=1)
    """Probability of a drop, for `fixed`."""
    half_impressions: float = Field(gt=0)
    """k: a value shown k times is dropped half the time; `frequency`, `learnt`."""
    relaxation: float = Field(gt=0)
    """Temperature of the relaxed coin in training, for `learnt`; small is hard."""
    kl_weight: float = Field(ge=0)
    """Price of one nat away from the frequency rule, for `learnt`."""
    signal: GateSignal = "training"
    """What a learnt gate learns from: the training rows, with everything else; or,
    once everything else is trained, rows `later` than those, because training rows
    reward memory whatever it is worth tomorrow."""
    cold_share: float | None = Field(ge=0, lt=1)
    """Share of training rows whose creative (or ad) is taken as never seen, whatever
    the kind; None = the share of new ones among the impressions after training."""


@dataclass(frozen=True, slots=True)
class GateChoice:
    """What a gate would do with some values, for its cost."""

    keep_probability: Float[Tensor, " K"]
    prior_probability: Float[Tensor, " K"]
    is_seen: Bool[Tensor, " K"]


class AdaptiveDropout(nn.Module):
    """Factors for the embeddings of the id fields of creatives and ads.

    In training a coin is thrown for each row and field: 1 keeps, 0 drops, nothing
    is rescaled. Some rows are made cold: all their identities are dropped together,
    as those of a new creative are. In evaluation the factor is the probability of
    being kept. A value without impressions is always dropped. Counts are part of
    the weights, so that serving decides as training did.

    Args:
        spec: gives the sizes of the vocabularies.
        fields: fields of the encoder it stands before; only those of kind `id` of
            creatives and ads are gated.
        config: the rule.
        counts: impressions by vocabulary; None when weights will be loaded.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        fields: Sequence[FieldSpec],
        config: GateConfig,
        counts: Counts | None,
    ) -> None:
        super().__init__()
        sided = [f for f in fields if f.of in SIDES]
        self.config = config
        self.gated = tuple(f for f in sided if f.kind == "id")
        self.content = tuple(f for f in sided if f.encoding == "vector")
        self.networks = nn.ModuleDict()
        self.cold_share: dict[Side, float] = dict.fromkeys(
            SIDES, config.cold_share or 0.0
        )
        for name in dict.fromkeys(field.vocabulary or "" for field in self.gated):
            size = spec.vocabulary(name).size
            self.register_buffer(_buffer(name), _seen(name, size, counts))
        if config.kind == "learnt":
            for field in self.gated:
                self.networks[module_key(field.key)] = _network()
        self.freeze_if_later()

    def freeze_if_later(self) -> None:
        """Keep training from moving a gate that learns afterwards."""
        if self.config.signal == "later":
            self.networks.requires_grad_(requires_grad=False)

    def expect_cold(self, shares: Mapping[Side, float]) -> None:
        """Take the share of new creatives and ads as measured, unless configured.

        Args:
            shares: side -> share in [0, 1] of later impressions whose identities
                were never seen in training. At most `MOST_COLD` of the rows are
                made cold, so that memory stays trained.
        """
        if self.config.cold_share is None:
            self.cold_share |= {s: min(x, MOST_COLD) for s, x in shares.items()}

    def forward(
        self, features: FeatureTensors, sides: tuple[Side, ...] = SIDES
    ) -> dict[str, Float[Tensor, " K"]]:
        """Return field key -> factor of its embedding, for the gated fields.

        Args:
            features: encoded rows that hold all gated fields of these sides.
            sides: which sides' fields are wanted.
        """
        gated = [field for field in self.gated if field.of in sides]
        factors = {field.key: self._factor(field, features) for field in gated}
        if self.training and any(self.cold_share.values()) and gated:
            # One coin for both sides: the creatives of a new ad are new.
            coin = self._coins(features)
            for field in gated:
                is_warm = coin >= self.cold_share[field.of]
                factors[field.key] = factors[field.key] * is_warm
        return factors

    def choices(
        self, features: FeatureTensors, sides: tuple[Side, ...] = SIDES
    ) -> list[GateChoice]:
        """Return what a learnt gate decides per field; empty for other kinds."""
        if self.config.kind != "learnt":
            return []
        chosen = []
        for field in self.gated:
            if field.of not in sides:
                continue
            counts = self._counts(field, features)
            logits = self._keep_logits(field, counts, features)
            prior = self._frequency_logits(counts).sigmoid()
            chosen.append(GateChoice(logits.sigmoid(), prior, counts > 0))
        return chosen

    def _factor(self, field: FieldSpec, features: FeatureTensors) -> Tensor:
        counts = self._counts(field, features)
        is_seen = (counts > 0).to(counts.dtype)
        logits = self._keep_logits(field, counts, features)
        if not self.training or self.config.kind == "none":
            return is_seen * logits.sigmoid()
        if self.config.kind == "learnt" and self.config.signal == "training":
            coin = self._coins(features)
            return is_seen * relaxed_coin(logits, coin, self.config.relaxation)
        kept = self._coins(features) < logits.sigmoid()
        return is_seen * kept.to(counts.dtype)

    def _coins(self, features: FeatureTensors) -> Tensor:
        num_rows = len(features[self.gated[0].key])
        return coins(row_numbers(features, num_rows), next_throw())

    def _keep_logits(
        self, field: FieldSpec, counts: Tensor, features: FeatureTensors
    ) -> Tensor:
        if self.config.kind == "none":
            return torch.full_like(counts, torch.inf)
        if self.config.kind == "fixed":
            return torch.full_like(counts, 1.0 - self.config.rate).logit()
        prior = self._frequency_logits(counts)
        if self.config.kind == "frequency":
            return prior
        has_content = self._has_content(counts, features)
        inputs = torch.stack([counts.log1p(), has_content], dim=-1)
        change: Tensor = self.networks[module_key(field.key)](inputs)
        return prior + change.squeeze(-1)

    def _frequency_logits(self, counts: Tensor) -> Tensor:
        return frequency_logits(counts, self.config.half_impressions)

    def _counts(self, field: FieldSpec, features: FeatureTensors) -> Tensor:
        counts: Tensor = getattr(self, _buffer(field.vocabulary or ""))
        return counts[features[field.key]]

    def _has_content(self, counts: Tensor, features: FeatureTensors) -> Tensor:
        """Share of a row's content fields that are known; 0 without such fields."""
        known = [features[f.key][:, -1] for f in self.content if f.key in features]
        if known:
            return torch.stack(known).mean(0)
        return torch.zeros_like(counts)


def frequency_logits(
    impressions: Float[Tensor, " K"], half_impressions: float
) -> Float[Tensor, " K"]:
    r"""Log-odds of keeping a value that was shown n times.

    .. math:: \mathrm{logit} \frac{n}{n + k} = \log n - \log k

    Args:
        impressions: n; less than one counts as one.
        half_impressions: k > 0, impressions at which half is kept.

    >>> frequency_logits(torch.tensor([30.0]), 30.0).sigmoid()
    tensor([0.5000])
    """
    return impressions.clamp(min=1.0).log() - math.log(half_impressions)


def relaxed_coin(
    keep_logits: Float[Tensor, " K"], uniform: Float[Tensor, " K"], relaxation: float
) -> Float[Tensor, " K"]:
    r"""Coin that a gradient passes through: near 0 or 1, and rarely between.

    .. math:: \sigma((l + \mathrm{logit}\, u) / \tau)

    As ``tau`` falls it becomes 1 where ``u > 1 - sigmoid(l)`` and 0 elsewhere, so it
    keeps with probability ``sigmoid(l)``. Above one half it is, at every ``tau``, in
    exactly those cases.

    Args:
        keep_logits: log-odds of keeping.
        uniform: one number in [0, 1) per value.
        relaxation: tau > 0; smaller is harder.

    Returns:
        Factors in (0, 1).

    >>> relaxed_coin(torch.zeros(2), torch.tensor([0.2, 0.9]), 0.1).round()
    tensor([0., 1.])

    Source: Maddison et al., "The Concrete Distribution", ICLR 2017, appendix B.
    """
    coin = uniform.clamp(1e-6, 1 - 1e-6).logit()
    return ((keep_logits + coin) / relaxation).sigmoid()


def _network() -> nn.Sequential:
    """Build a network that answers 0 until it is trained."""
    last = nn.Linear(GATE_HIDDEN, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(2, GATE_HIDDEN), nn.Tanh(), last)


def _buffer(vocabulary: str) -> str:
    return f"counts_{module_key(vocabulary)}"


def _seen(name: str, size: int, counts: Counts | None) -> Tensor:
    """Check one vocabulary's counts; index 0 is never seen."""
    if counts is None:
        return torch.zeros(size)
    if name not in counts or len(counts[name]) != size:
        got = len(counts[name]) if name in counts else "none"
        raise ValueError(f"counts of vocabulary {name!r}: expected {size}, got {got}")
    seen = torch.from_numpy(np.array(counts[name], dtype=np.float32))
    seen[0] = 0.0
    return seen
