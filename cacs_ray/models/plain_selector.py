"""The selector's answer to one request, in plain arrays.

A request is a single row for the user tower: forty small calls of a tensor library,
each of which costs more than its arithmetic, made half of what selection costs. The
same sums in NumPy are a dozen calls. Training, batches and catalogues go on through
`Selector`; a test holds both to the same scores.

    A  candidate ads   C  creatives per list, padded   D  width of the shared vectors
    W  width of the encoded user and request           H  width of the hidden layer
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cacs_ray.features.spec import FeatureArrays, FieldSpec
from cacs_ray.models.embeddings import EmbeddingTables, FieldEncoder, module_key
from cacs_ray.models.selector import Selector
from cacs_ray.models.tower import Tower


class PlainSelector:
    """Scores lists of one request; tables and vectors are the selector's own.

    Args:
        selector: trained; its weights must not change any more.
        creative_vectors: V(c) by catalogue row.
    """

    def __init__(
        self, selector: Selector, creative_vectors: Float[Tensor, "K D"]
    ) -> None:
        self._encoder = _PlainEncoder(selector.user_encoder, selector.tables)
        self._tower = _PlainTower(selector.user_tower, self._encoder.columns)
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
        # Not a matrix product: that rounds a row by its place, and creatives that
        # nothing tells apart must tie.
        scores: np.ndarray = np.vecdot(listed, self.user_vector(context))
        return scores


class _PlainEncoder:
    """`FieldEncoder` for one row; its numbers stand in an order of their own.

    First what is looked up, all at once, then what is projected, then a 1 for the
    biases of the tower; `columns` says where each stands in the order of the fields.
    """

    def __init__(self, encoder: FieldEncoder, tables: EmbeddingTables) -> None:
        looked_up = [one for one in encoder.fields if one.vocabulary]
        projected = [one for one in encoder.fields if not one.vocabulary]
        self._looked_up = [one.key for one in looked_up]
        self._lists = [
            (bag, one.key)
            for bag, one in enumerate(looked_up)
            if one.encoding == "index_list"
        ]
        self._projections = [
            (one.key, *_weights(encoder.projections[module_key(one.key)]))
            for one in projected
        ]
        self._table = _Table(tables.weight.detach())
        sizes = [one.size if one.encoding == "index_list" else 1 for one in looked_up]
        starts = [tables.span(one).start for one in looked_up]
        self._starts = np.repeat(starts, sizes)
        self._bags = np.cumsum([0, *sizes[:-1]])
        self.columns = self._columns(encoder, [*looked_up, *projected], tables.dim)
        self._row = np.ones(len(self.columns) + 1, np.float32)

    def __call__(self, context: FeatureArrays) -> Float[np.ndarray, " W1"]:
        # Without any field of user or request the towers read a constant 1.
        row = self._row.copy()
        at = 0
        if self._looked_up:
            bags = self._bags_of(context)
            at = bags.size
            row[:at] = bags.ravel()
        for key, weight, bias in self._projections:
            row[at : at + len(bias)] = weight @ context[key][0] + bias
            at += len(bias)
        return row

    def _bags_of(self, context: FeatureArrays) -> Float[np.ndarray, "F D"]:
        """Return what each field finds; what is unknown has a row of zeros."""
        values = np.concatenate([context[key].ravel() for key in self._looked_up])
        found = self._table[values + self._starts]
        bags: np.ndarray = np.add.reduceat(found, self._bags, axis=0)
        for bag, key in self._lists:
            bags[bag] /= max(int(np.count_nonzero(context[key])), 1)
        return bags

    @staticmethod
    def _columns(
        encoder: FieldEncoder, ordered: list[FieldSpec], dim: int
    ) -> Int[np.ndarray, " W"]:
        """Return the place in the encoder's output of each number of a row."""
        if not ordered:
            return np.zeros(1, np.int64)
        widths = {
            one.key: dim
            if one.vocabulary
            else len(_weights(encoder.projections[module_key(one.key)])[1])
            for one in encoder.fields
        }
        ends = np.cumsum([widths[one.key] for one in encoder.fields])
        places = {
            one.key: np.arange(end - widths[one.key], end)
            for one, end in zip(encoder.fields, ends, strict=True)
        }
        return np.concatenate([places[one.key] for one in ordered])


class _PlainTower:
    """`Tower` for one row; the layers that read it are one matrix, biases and all."""

    def __init__(self, tower: Tower, columns: Int[np.ndarray, " W"]) -> None:
        hidden, hidden_bias = _weights(tower.hidden)
        self._out, out_bias = _weights(tower.out)
        layers = np.concatenate([hidden, tower.straight.weight.detach().numpy()])
        biases = np.concatenate([hidden_bias, out_bias])
        self._first = np.concatenate([layers[:, columns], biases[:, None]], axis=1)
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
