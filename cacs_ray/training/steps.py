"""From a batch to a stage's loss: what each stage minimises, in parts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cacs_ray import losses
from cacs_ray.features.batch import Batch
from cacs_ray.models.adaptive_dropout import GateChoice
from cacs_ray.models.embeddings import gather_rows
from cacs_ray.models.ranker import Ranker
from cacs_ray.models.selector import Selector

Distillation = Literal["none", "pointwise", "listwise", "rank_labels", "clid"]

MOST_IMPORTANCE = 10.0
"""Bound of (1 / list length) / propensity: a few rare choices must not decide."""

Parts = dict[str, Tensor]
"""Scalars by name; `loss` is minimised, the others are told."""

WeightedChoice = tuple[GateChoice, Tensor]
"""What a gate decides for some values, and how often each of them occurs."""


class Step(nn.Module, ABC):
    """Turns a batch into the parts of a loss; each is a weighted mean."""

    importance_clip: float | None = None
    negative_weight: float = 1.0

    @property
    @abstractmethod
    def prices(self) -> Mapping[str, float]:
        """What a unit of each part costs; parts that are not here are only told."""

    @abstractmethod
    def parts(self, batch: Batch) -> Parts:
        """Return the parts by name, as means over the batch."""

    @abstractmethod
    def totals(self, batch: Batch) -> Parts:
        """Return what each part is divided by: the sum of its weights."""

    def forward(self, batch: Batch, shares: Parts | None = None) -> Parts:
        """Return `loss` and its parts.

        Args:
            batch: some rows.
            shares: this worker's total of each part over the mean of all workers'
                totals. The mean over workers is then the mean over all their rows.
        """
        parts = self.parts(batch)
        if shares is not None:
            parts = {name: value * shares[name] for name, value in parts.items()}
        return {"loss": self.loss(parts), **parts}

    def click_weights(self, batch: Batch) -> Float[Tensor, " B"]:
        """Return the weight of each row in the click loss.

        Importance is for learning. What is judged, outside training, is the plain
        loss per impression: it means the same whatever a variant was trained by.
        """
        return click_weights(batch, self.importance_clip if self.training else None)

    def click_loss(
        self, logits: Float[Tensor, " B"], batch: Batch
    ) -> Float[Tensor, ""]:
        """Return the click loss of the shown creatives.

        Weights of negatives are for learning as importance is, see `click_weights`.

        Args:
            logits: of a click on the shown creative in its slot.
            batch: the rows.
        """
        return losses.click_loss(
            logits,
            batch.label,
            self.click_weights(batch),
            negative_weight=self.negative_weight if self.training else 1.0,
        )

    def loss(self, parts: Parts) -> Tensor:
        """Return what the parts cost together."""
        prices = self.prices
        priced = [
            prices[name] * value for name, value in parts.items() if name in prices
        ]
        return torch.stack(priced).sum()


class RankerStep(Step):
    """Clicks of the shown creative, for the teacher and the serving ranker.

    Args:
        ranker: what is trained.
        listwise_click_weight: price of one nat of the choice among the creatives of
            a clicked list; 0 reads no lists.
        catalogue_vectors: float32 [catalogue, D], the selector's frozen vectors,
            for a ranker that is fed with them.
        importance_clip: bound of the inverse propensity by which the click loss
            weights a row in training; None weights by impressions alone.
        negative_weight: what an impression without a click counts in the click loss
            in training, in (0, 1].
    """

    catalogue_vectors: Tensor | None

    def __init__(
        self,
        ranker: Ranker,
        *,
        listwise_click_weight: float = 0.0,
        catalogue_vectors: Tensor | None = None,
        importance_clip: float | None = None,
        negative_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.ranker = ranker
        self.importance_clip = importance_clip
        self.negative_weight = negative_weight
        self.listwise_click_weight = listwise_click_weight
        self.register_buffer("catalogue_vectors", catalogue_vectors, persistent=False)

    @property
    def prices(self) -> Mapping[str, float]:
        """Prices of the parts."""
        return {
            "click_loss": 1.0,
            "listwise_click_loss": self.listwise_click_weight,
            "gate_kl": self.ranker.config.gate.kl_weight,
        }

    def parts(self, batch: Batch, vectors: Float[Tensor, "K D"] | None = None) -> Parts:
        """Return the parts of the loss.

        Args:
            batch: some rows.
            vectors: the selector's, of the batch's creatives, that a gradient may
                flow into; None reads the frozen ones, where there are any.
        """
        ranker = self.ranker
        if vectors is None and self.catalogue_vectors is not None:
            vectors = gather_rows(self.catalogue_vectors, batch.catalogue_rows)
        context = ranker.encode_context(batch.context)
        creatives = ranker.encode_creatives(batch.creatives, vectors)
        shown = ranker.blank_some(
            _shown(batch.creative_index, batch).unsqueeze(-1), batch.context
        )
        logits = ranker.combine(context, creatives, shown)[:, 0]
        logits = logits + ranker.position(batch.slot)
        parts = {"click_loss": self.click_loss(logits, batch)}
        if self.listwise_click_weight:
            # Only clicked lists have a say; the others would be scored in vain.
            clicked = _clicked_lists(batch)
            of_clicked = context if len(context) == 1 else context[clicked]
            listed = ranker.combine(
                of_clicked, creatives, batch.creative_index[clicked]
            )
            parts["listwise_click_loss"] = _listwise_clicks(listed, batch, clicked)
        return parts | _gate_cost(self._weighted_choices(batch))

    def totals(self, batch: Batch) -> Parts:
        """Return the sum of the weights of each part."""
        totals = {"click_loss": self.click_weights(batch).sum()}
        if self.listwise_click_weight:
            totals["listwise_click_loss"] = _clicks(batch, _clicked_lists(batch)).sum()
        return totals | _gate_total(self._weighted_choices(batch))

    def _weighted_choices(self, batch: Batch) -> list[WeightedChoice]:
        of_ads, of_creatives = self.ranker.gate_choices(batch.context, batch.creatives)
        rows = torch.ones_like(batch.weight)
        return [(c, rows) for c in of_ads] + [
            (c, _occurrences(batch)) for c in of_creatives
        ]


class StudentStep(Step):
    """Clicks of the shown creative, and the teacher's opinion of the whole list.

    Args:
        selector: what is trained.
        distillation: how the teacher's logits are taught.
        distillation_weight: price of one nat of it.
        click_weight: price of one nat of the click loss.
        listwise_click_weight: price of one nat of the choice among the creatives of
            a clicked list.
        temperature: of the teacher's soft labels, for `listwise`.
        importance_clip, negative_weight: as in `RankerStep`.
    """

    def __init__(  # noqa: PLR0913 - a name for each price
        self,
        selector: Selector,
        distillation: Distillation,
        *,
        distillation_weight: float,
        click_weight: float,
        listwise_click_weight: float,
        temperature: float,
        importance_clip: float | None = None,
        negative_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.selector = selector
        self.importance_clip = importance_clip
        self.negative_weight = negative_weight
        self.distillation = distillation
        self.distillation_weight = distillation_weight
        self.click_weight = click_weight
        self.listwise_click_weight = listwise_click_weight
        self.temperature = temperature

    @property
    def prices(self) -> Mapping[str, float]:
        """Prices of the parts."""
        return {
            "click_loss": self.click_weight,
            "listwise_click_loss": self.listwise_click_weight,
            "gate_kl": self.selector.config.gate.kl_weight,
            "distillation_loss": self.distillation_weight,
        }

    def parts(self, batch: Batch, vectors: Float[Tensor, "K D"] | None = None) -> Parts:
        """Return the parts of the loss, and how often teacher and student agree.

        Args:
            batch: some rows.
            vectors: of the batch's creatives, where they are known already.
        """
        selector = self.selector
        if vectors is None:
            vectors = selector.creative_vectors(batch.creatives)
        scores = selector.score(
            selector.user_vectors(batch.context), vectors, batch.creative_index
        )
        offset = selector.click_offset(batch.context)
        logits = _shown(scores, batch) + offset + selector.position(batch.slot)
        parts = {"click_loss": self.click_loss(logits, batch)}
        if self.listwise_click_weight:
            clicked = _clicked_lists(batch)
            chosen = _listwise_clicks(scores[clicked], batch, clicked)
            parts["listwise_click_loss"] = chosen
        parts |= _gate_cost(self._weighted_choices(batch))
        if self.distillation != "none" and batch.teacher_logits is not None:
            # With the offset it is a click logit in slot 0, as the teacher's is.
            taught = self._taught(scores + offset.unsqueeze(-1), batch)
            parts["distillation_loss"] = taught
            parts["teacher_agreement"] = top_agreement(scores, batch)
        return parts

    def totals(self, batch: Batch) -> Parts:
        """Return the sum of the weights of each part."""
        totals = {"click_loss": self.click_weights(batch).sum()}
        if self.listwise_click_weight:
            totals["listwise_click_loss"] = _clicks(batch, _clicked_lists(batch)).sum()
        totals |= _gate_total(self._weighted_choices(batch))
        if self.distillation != "none" and batch.teacher_logits is not None:
            num_real = batch.creative_mask.sum(-1)
            least = 1 if self.distillation == "pointwise" else 2
            totals["distillation_loss"] = (batch.weight * (num_real >= least)).sum()
            totals["teacher_agreement"] = (num_real >= 2).sum().float()
        return totals

    def _weighted_choices(self, batch: Batch) -> list[WeightedChoice]:
        choices = self.selector.gate_choices(batch.creatives)
        return [(choice, _occurrences(batch)) for choice in choices]

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


def click_weights(batch: Batch, importance_clip: float | None) -> Float[Tensor, " B"]:
    """Return the weight of each row in the click loss.

    Args:
        batch: N rows.
        importance_clip: None for impressions alone. Otherwise impressions x
            min(clip, (1 / list length) / propensity): rows as if creatives had been
            chosen uniformly, as far as the clip allows. Rows without a propensity
            count as uniformly chosen.
    """
    if importance_clip is None:
        return batch.weight
    return batch.weight * _importance(batch).clamp(max=importance_clip)


def _importance(batch: Batch) -> Float[Tensor, " B"]:
    """Return uniform over logged probability of the shown creative; 1 if unknown."""
    importance = 1.0 / batch.list_length / batch.propensity
    return importance.nan_to_num(nan=1.0)


def _shown(values: Tensor, batch: Batch) -> Tensor:
    """Return the value of the shown creative of each row."""
    return values.gather(1, batch.shown_index.unsqueeze(-1)).squeeze(-1)


def _clicked_lists(batch: Batch) -> Int[Tensor, " b"]:
    """Return the rows whose click chose among several creatives."""
    has_choice = batch.creative_mask.sum(-1) >= 2
    return torch.nonzero((batch.label > 0) & has_choice).squeeze(-1)


def _listwise_clicks(
    scores: Float[Tensor, "b C"], batch: Batch, clicked: Int[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Return the list-wise click loss of a batch from its clicked lists' scores."""
    return losses.listwise_click_loss(
        scores,
        batch.shown_index[clicked],
        batch.creative_mask[clicked],
        _clicks(batch, clicked),
    )


def _clicks(batch: Batch, clicked: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the clicks of clicked lists, as under a uniform choice."""
    clicks = batch.label[clicked] * batch.weight[clicked]
    return clicks * _importance(batch)[clicked].clamp(max=MOST_IMPORTANCE)


def _occurrences(batch: Batch) -> Float[Tensor, " K"]:
    """Return how often each distinct creative is in the lists of a batch.

    Weighted so, a creative that two workers meet costs as much as for one.
    """
    num_creatives = len(batch.catalogue_rows)
    counts = torch.bincount(batch.creative_index.ravel(), minlength=num_creatives)
    counts[0] = 0
    return counts.float()


def _gate_cost(choices: Sequence[WeightedChoice]) -> Parts:
    """Return the mean cost of learnt gates, nothing when there are none."""
    if not choices:
        return {}
    cost = losses.gate_kl_loss(
        torch.cat([choice.keep_probability for choice, _ in choices]),
        torch.cat([choice.prior_probability for choice, _ in choices]),
        torch.cat([choice.is_seen * weight for choice, weight in choices]),
    )
    return {"gate_kl": cost}


def _gate_total(choices: Sequence[WeightedChoice]) -> Parts:
    if not choices:
        return {}
    seen = [(choice.is_seen * weight).sum() for choice, weight in choices]
    return {"gate_kl": torch.stack(seen).sum()}
