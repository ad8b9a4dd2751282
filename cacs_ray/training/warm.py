"""Warm start: yesterday's models are where today's begin.

What an embedding row means is the value it stands for, not its number: rows are found
by value, so that any earlier bundle of the same features can be gone on from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cacs_ray.features.kept import FittedFeatures, read_fitted
from cacs_ray.features.vocabulary import Vocabulary
from cacs_ray.models.embeddings import EmbeddingTables
from cacs_ray.models.saved import load_ranker, load_selector

Places = Mapping[str, np.ndarray]
"""Vocabulary name -> for each of our indices the earlier one, 0 where there is none."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier bundle to start from; small enough to be sent to every worker."""

    bundle: Path
    places: Places

    @classmethod
    def open(cls, bundle: Path, fitted: FittedFeatures) -> "Earlier":
        """Find the rows of now among those of an earlier bundle.

        Args:
            bundle: a whole bundle, checked by its digests.
            fitted: the features of now.
        """
        before = read_fitted(bundle).vocabularies
        places = {
            name: earlier_index(now, before[name])
            for name, now in fitted.vocabularies.items()
            if name in before
        }
        return cls(bundle, places)

    def teach(self, model: nn.Module, name: str) -> None:
        """Give a fresh model the weights of an earlier one, where they fit.

        Args:
            model: `Selector` or `Ranker`, changed in place.
            name: directory in the bundle: `selector`, `ranker` or `teacher`.
        """
        spec = read_fitted(self.bundle).spec
        load = load_selector if name == "selector" else load_ranker
        take_weights(model, load(self.bundle / name, spec), self.places)


def earlier_index(now: Vocabulary, before: Vocabulary) -> np.ndarray:
    """Return the earlier index of every index of a vocabulary, int64 [size].

    A value that fell into a hash bucket before starts from that bucket. Buckets are
    the same while there are equally many of them.
    """
    found = before.encode(now.values).astype(np.int64)
    buckets = np.zeros(now.num_buckets, np.int64)
    if now.num_buckets == before.num_buckets:
        buckets = 1 + len(before.values) + np.arange(now.num_buckets)
    return np.concatenate([[0], found, buckets])


@torch.no_grad()
def take_weights(
    model: nn.Module, earlier: nn.Module, places: Places | None = None
) -> None:
    """Copy every weight whose name and shape fit, and every row that is known.

    Counts of impressions are no weights: they stay those of now.

    Args:
        model: changed in place.
        earlier: where the weights come from.
        places: of the rows; None when both number their values alike.
    """
    tables = {
        name: part
        for name, part in earlier.named_modules()
        if isinstance(part, EmbeddingTables)
    }
    for name, part in model.named_modules():
        if not isinstance(part, EmbeddingTables) or name not in tables:
            continue
        # Embeddings of another width start anew, like every other shape.
        if part.weight.shape[1:] == tables[name].weight.shape[1:]:
            part.take_from(tables[name], places)
    given = dict(earlier.named_parameters())
    of_tables = {f"{name}.weight" for name in tables}
    for name, ours in model.named_parameters():
        theirs = given.get(name)
        if name not in of_tables and theirs is not None and ours.shape == theirs.shape:
            ours.copy_(theirs)
