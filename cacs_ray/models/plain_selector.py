"""The selector's answer to one request, in plain arrays.

A request is a single row for the user tower: forty small calls of a tensor library,
each of which costs more than its arithmetic, made half of what selection costs. The
same sums in NumPy are a dozen calls. Training, batches and catalogues go on through
`Selector`; a test holds both to the same scores.

    A  candidate ads   C  creatives per list, padded   D  width of the shared vectors
    W  width of the encoded user and request           H  width of the hidden layer
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cacs_ray.features.spec import FeatureArrays
from cacs_ray.models.embeddings import EmbeddingTables, FieldEncoder, module_key
from cacs_ray.models.selector import Selector
from cacs_ray.models.tower import Tower

_ONE: Final = np.ones(1, np.float32)


class PlainSelector:
    """Scores lists of one request; shares the weights of a selector, copies none.

    Args:
        selector: trained; its weights must not change any more.
        creative_vectors: V(c) by catalogue row.
    """

    def __init__(
        self, selector: Selector, creative_vectors: Float[Tensor, "K D"]
    ) -> None:
        self._encoder = _PlainEncoder(selector.user_encoder, selector.tables)
        self._tower = _PlainTower(selector.user_tower)
        self._creative_vectors = creative_vectors.detach().numpy()

    def user_vector(self, context: FeatureArrays) -> Float[np.ndarray, " D"]:
        """Return U(user, request), its last coordinate 1.

        Args:
            context: field key -> encoded user.* and request.* fields, one row each.
        """
        vector = np.ones(self._creative_vectors.shape[1], np.float32)
        vector[:-1] = self._tower(self._encoder(context))
        return vector

    def score(
        self, context: FeatureArrays, lists: Int[np.ndarray, "A C"]
    ) -> Float[np.ndarray, "A C"]:
        """Return the dot product of the user with each creative of each list.

        Args:
            context: as of `user_vector`.
            lists: catalogue rows; padding (row 0) gets a score that means nothing.
        """
        listed = self._creative_vectors.take(lists, axis=0)
        scores: np.ndarray = listed @ self.user_vector(context)
        return scores


class _PlainEncoder:
    """`FieldEncoder` for one row, with a 1 behind it for the tower's biases."""

    def __init__(self, encoder: FieldEncoder, tables: EmbeddingTables) -> None:
        self._fields = encoder.fields
        self._looked_up = [one for one in self._fields if one.vocabulary]
        self._starts = [tables.span(one).start for one in self._looked_up]
        self._projections = {
            one.key: _weights(encoder.projections[module_key(one.key)])
            for one in self._fields
            if module_key(one.key) in encoder.projections
        }
        self._table = _Table(tables.weight.detach())

    def __call__(self, context: FeatureArrays) -> Float[np.ndarray, " W1"]:
        found = self._found(context) if self._looked_up else {}
        # Without any field of user or request the towers read a constant 1.
        parts = [] if self._fields else [_ONE]
        for one in self._fields:
            part = found.get(one.key)
            if part is None:
                weight, bias = self._projections[one.key]
                part = weight @ context[one.key][0] + bias
            parts.append(part)
        return np.concatenate([*parts, _ONE])

    def _found(self, context: FeatureArrays) -> Mapping[str, Float[np.ndarray, " D"]]:
        """Look all values up at once; those that are unknown have rows of zeros."""
        values = [context[one.key].ravel() for one in self._looked_up]
        rows = np.concatenate(
            [start + one for start, one in zip(self._starts, values, strict=True)]
        )
        found, at, parts = self._table[rows], 0, {}
        for one, listed in zip(self._looked_up, values, strict=True):
            size = len(listed)
            if one.encoding == "index":
                parts[one.key] = found[at]
            else:
                known = max(int(np.count_nonzero(listed)), 1)
                total = np.add.reduce(found[at : at + size], axis=0)
                parts[one.key] = total / np.float32(known)
            at += size
        return parts


class _PlainTower:
    """`Tower` for one row; the layers that read it are one matrix, biases and all."""

    def __init__(self, tower: Tower) -> None:
        hidden, hidden_bias = _weights(tower.hidden)
        self._out, out_bias = _weights(tower.out)
        layers = np.concatenate([hidden, tower.straight.weight.detach().numpy()])
        biases = np.concatenate([hidden_bias, out_bias])
        self._first = np.concatenate([layers, biases[:, None]], axis=1)
        self._hidden = len(hidden)

    def __call__(self, row: Float[np.ndarray, " W1"]) -> Float[np.ndarray, " D1"]:
        both = self._first @ row
        bent = np.maximum(both[: self._hidden], 0.0)
        found: np.ndarray = self._out @ bent + both[self._hidden :]
        return found


class _Table:
    """Rows of an embedding table as float32, however they are kept."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        is_plain = weight.dtype == torch.float32
        self._array = weight.numpy() if is_plain else None

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        if self._array is not None:
            return self._array.take(rows, axis=0)
        return self._weight[torch.from_numpy(rows)].float().numpy()


def _weights(layer: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and bias of a linear layer, as views."""
    assert isinstance(layer, nn.Linear)
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()
