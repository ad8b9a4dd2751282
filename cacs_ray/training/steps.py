"""From a batch to a stage's loss: what each stage minimises, in parts."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cacs_ray import losses
from cacs_ray.features.batch import Batch
from cacs_ray.models.adaptive_dropout import GateChoice
from cacs_ray.models.embeddings import gather_rows
from cacs_ray.models.ranker import Ranker
from cacs_ray.models.selector import Selector

Distillation = Literal["none", "pointwise", "listwise", "rank_labels", "clid"]

Parts = dict[str, Tensor]
"""Scalars by name; `loss` is minimised, the others are told."""


class RankerStep(nn.Module):
    """Clicks of the shown creative, for the teacher and the serving ranker.

    Args:
        ranker: what is trained.
        catalogue_vectors: float32 [catalogue, D], the selector's frozen vectors,
            for a ranker that is fed with them.
    """

    catalogue_vectors: Tensor | None

    def __init__(self, ranker: Ranker, catalogue_vectors: Tensor | None = None) -> None:
        super().__init__()
        self.ranker = ranker
        self.register_buffer("catalogue_vectors", catalogue_vectors, persistent=False)

    def forward(self, batch: Batch) -> Parts:
        """Return the loss and its parts."""
        vectors = None
        if self.catalogue_vectors is not None:
            vectors = gather_rows(self.catalogue_vectors, batch.catalogue_rows)
        logits = self.ranker(
            batch.context,
            batch.creatives,
            _shown(batch.creative_index, batch).unsqueeze(-1),
            batch.slot,
            vectors,
        )
        click = losses.click_loss(logits[:, 0], batch.label, batch.weight)
        choices = self.ranker.gate_choices(batch.context, batch.creatives)
        parts = {"click_loss": click} | _gate_cost(choices)
        price = self.ranker.config.gate.kl_weight
        return {"loss": click + price * parts.get("gate_kl", 0.0), **parts}


class StudentStep(nn.Module):
    """Clicks of the shown creative, and the teacher's opinion of the whole list.

    Args:
        selector: what is trained.
        distillation: how the teacher's logits are taught.
        distillation_weight: price of one nat of it.
        click_weight: price of one nat of the click loss.
        temperature: of the teacher's soft labels, for `listwise`.
    """

    def __init__(
        self,
        selector: Selector,
        distillation: Distillation,
        *,
        distillation_weight: float,
        click_weight: float,
        temperature: float,
    ) -> None:
        super().__init__()
        self.selector = selector
        self.distillation = distillation
        self.distillation_weight = distillation_weight
        self.click_weight = click_weight
        self.temperature = temperature

    def forward(self, batch: Batch) -> Parts:
        """Return the loss and its parts."""
        selector = self.selector
        scores = selector.score(
            selector.user_vectors(batch.context),
            selector.creative_vectors(batch.creatives),
            batch.creative_index,
        )
        offset = selector.click_offset(batch.context)
        logits = _shown(scores, batch) + offset + selector.position(batch.slot)
        click = losses.click_loss(logits, batch.label, batch.weight)
        parts = {"click_loss": click}
        parts |= _gate_cost(selector.gate_choices(batch.creatives))
        price = selector.config.gate.kl_weight
        loss = self.click_weight * click + price * parts.get("gate_kl", 0.0)
        if self.distillation != "none" and batch.teacher_logits is not None:
            # With the offset it is a click logit in slot 0, as the teacher's is.
            taught = self._taught(scores + offset.unsqueeze(-1), batch)
            loss = loss + self.distillation_weight * taught
            parts["distillation_loss"] = taught
            parts["teacher_agreement"] = top_agreement(scores, batch)
        return {"loss": loss, **parts}

    def _taught(self, logits: Tensor, batch: Batch) -> Tensor:
        teacher, mask, weight = (
            batch.teacher_logits,
            batch.creative_mask,
            batch.weight,
        )
        assert teacher is not None
        if self.distillation == "listwise":
            return losses.listwise_distillation_loss(
                logits, teacher, mask, weight, temperature=self.temperature
            )
        return _PLAIN_LOSSES[self.distillation](logits, teacher, mask, weight)


_PLAIN_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "pointwise": losses.pointwise_distillation_loss,
    "rank_labels": losses.rank_label_loss,
    "clid": losses.clid_loss,
}


@torch.no_grad()
def top_agreement(scores: Float[Tensor, "B C"], batch: Batch) -> Float[Tensor, ""]:
    """Return the share of lists with a choice where the best creative is the same."""
    teacher = batch.teacher_logits
    if teacher is None:
        return torch.zeros(())
    lowest = torch.finfo(scores.dtype).min
    ours = scores.masked_fill(~batch.creative_mask, lowest).argmax(-1)
    theirs = teacher.masked_fill(~batch.creative_mask, lowest).argmax(-1)
    has_choice = batch.creative_mask.sum(-1) >= 2
    is_same = (ours == theirs) & has_choice
    return is_same.sum() / has_choice.sum().clamp(min=1)


def _shown(values: Tensor, batch: Batch) -> Tensor:
    """Return the value of the shown creative of each row."""
    return values.gather(1, batch.shown_index.unsqueeze(-1)).squeeze(-1)


def _gate_cost(choices: Sequence[GateChoice]) -> Parts:
    """Return the mean cost of learnt gates, nothing when there are none."""
    if not choices:
        return {}
    costs = [
        losses.gate_kl_loss(c.keep_probability, c.prior_probability, c.is_seen)
        for c in choices
    ]
    return {"gate_kl": torch.stack(costs).mean()}
