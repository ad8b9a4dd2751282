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
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from cacs_ray.features.batch import FeatureTensors
from cacs_ray.features.spec import FieldSpec
from cacs_ray.models.embeddings import EmbeddingTables, FieldEncoder, module_key
from cacs_ray.models.selector import Selector
from cacs_ray.models.tower import Tower

_NOTHING: Final = np.ones(1, np.float32)
"""What a selector without any field of user or request reads."""


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

    def user_vector(self, context: FeatureTensors) -> Float[np.ndarray, " D"]:
        """Return U(user, request), its last coordinate 1.

        Args:
            context: field key -> encoded user.* and request.* fields, one row each.
        """
        vector = np.ones(self._creative_vectors.shape[1], np.float32)
        vector[:-1] = self._tower(self._encoder(context))
        return vector

    def score(
        self, context: FeatureTensors, lists: Int[np.ndarray, "A C"]
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
    """`FieldEncoder` for one row."""

    def __init__(self, encoder: FieldEncoder, tables: EmbeddingTables) -> None:
        self._fields = encoder.fields
        self._starts = {
            one.key: tables.span(one).start for one in self._fields if one.vocabulary
        }
        self._projections: Mapping[str, tuple[np.ndarray, np.ndarray]] = {
            one.key: _weights(encoder.projections[module_key(one.key)])
            for one in self._fields
            if module_key(one.key) in encoder.projections
        }
        self._table = _Table(tables.weight.detach())

    def __call__(self, context: FeatureTensors) -> Float[np.ndarray, " W"]:
        if not self._fields:
            return _NOTHING
        return np.concatenate(
            [self._encode(one, context[one.key].numpy()) for one in self._fields]
        )

    def _encode(self, one: FieldSpec, value: Shaped[np.ndarray, "1 *L"]) -> np.ndarray:
        projection = self._projections.get(one.key)
        if projection is not None:
            weight, bias = projection
            projected: np.ndarray = weight @ value[0] + bias
            return projected
        start = self._starts[one.key]
        if one.encoding == "index":
            return self._table[start + value][0]
        known = value[value > 0]
        mean: np.ndarray = self._table[start + known].sum(0) / max(len(known), 1)
        return mean


class _Table:
    """Rows of an embedding table as float32, however they are kept."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        is_plain = weight.dtype == torch.float32
        self._array = weight.numpy() if is_plain else None

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        if self._array is not None:
            found: np.ndarray = self._array[rows]
            return found
        return self._weight[torch.from_numpy(rows)].float().numpy()


class _PlainTower:
    """`Tower` for one row; the two layers that read it are one matrix."""

    def __init__(self, tower: Tower) -> None:
        hidden, self._hidden_bias = _weights(tower.hidden)
        straight = tower.straight.weight.detach().numpy()
        self._first = np.concatenate([hidden, straight])
        self._out, self._out_bias = _weights(tower.out)

    def __call__(self, row: Float[np.ndarray, " W"]) -> Float[np.ndarray, " D1"]:
        both = self._first @ row
        size = len(self._hidden_bias)
        bent = np.maximum(both[:size] + self._hidden_bias, 0.0)
        found: np.ndarray = self._out @ bent + self._out_bias + both[size:]
        return found


def _weights(layer: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and bias of a linear layer, as views."""
    assert isinstance(layer, nn.Linear)
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()
