"""The selector's answer to one request, in plain arrays.

A request is a single row for the user tower: forty small calls of a tensor library,
each of which costs more than its arithmetic, made half of what selection costs. The
same sums in NumPy are a dozen calls, and what no request changes is summed up when a
release is loaded. Training, batches and catalogues go on through `Selector`; a test
holds both to the same scores.

    A  candidate ads   C  creatives per list, padded   D  width of the shared vectors
    U  users           H  width of the hidden layer    W  width of some encoded fields
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cacs_ray.features.spec import FeatureArrays, FieldSpec
from cacs_ray.models.embeddings import module_key
from cacs_ray.models.selector import Selector

MOST_KEPT: Final = 2**24
"""Numbers that are kept of users and of request fields together: 64 MiB in each
process and release. Users, or a field, that would be more are not kept at all."""

_BLOCK: Final = 256
"""Rows summed up at once, while other threads wait for the interpreter."""


class PlainSelector:
    """Scores lists of one request; tables and vectors are the selector's own.

    Args:
        selector: trained; its weights must not change any more.
        creative_vectors: V(c) by catalogue row.
        users: field key -> encoded user.* fields of all users, row 0 = unknown.
        most_kept: so many numbers are kept of users and request fields.
    """

    def __init__(
        self,
        selector: Selector,
        creative_vectors: Float[Tensor, "K D"],
        users: FeatureArrays,
        *,
        most_kept: int = MOST_KEPT,
    ) -> None:
        tower = selector.user_tower
        fields = selector.user_encoder.fields
        of_user = [one for one in fields if one.of == "user"]
        self._of_user = _FirstLayer(selector, of_user, _first_bias(selector))
        self._users = _kept(self._of_user, users, most_kept)
        left = most_kept - (0 if self._users is None else self._users.size)
        self._values: list[tuple[str, np.ndarray]] = []
        computed = []
        for one in (one for one in fields if one.of == "request"):
            rows = _kept_values(selector, one, left)
            if rows is None:
                computed.append(one)
                continue
            self._values.append((one.key, rows))
            left -= rows.size
        self._of_request = _FirstLayer(selector, computed) if computed else None
        # The appeal of a creative counts for all: a coordinate that is always 1.
        self._out = np.pad(_array(tower.out.weight), ((0, 1), (0, 0)))
        self._hidden = len(tower.hidden.bias)
        self._creative_vectors = creative_vectors.detach().numpy()

    def user_vector(
        self, context: FeatureArrays, user_row: int | None = None
    ) -> Float[np.ndarray, " D"]:
        """Return U(user, request), its last coordinate 1.

        Args:
            context: field key -> encoded user.* and request.* fields, one row each.
            user_row: which of the users this is, 0 = unknown; None when they are not
                those that the context speaks of: then its user.* fields are read.
        """
        if user_row is None or self._users is None:
            both = self._of_user(context)[0]
        else:
            both = self._users[user_row]
        for key, rows in self._values:
            both = both + rows[context[key][0]]
        if self._of_request is not None:
            both = both + self._of_request(context)[0]
        bent = np.maximum(both[: self._hidden], 0.0)
        vector: np.ndarray = np.vecdot(self._out, bent) + both[self._hidden :]
        return vector

    def score(
        self,
        context: FeatureArrays,
        lists: Int[np.ndarray, "A C"],
        user_row: int | None = None,
    ) -> Float[np.ndarray, "A C"]:
        """Return the dot product of the user with each creative of each list.

        Args:
            context: as of `user_vector`.
            lists: catalogue rows; padding (row 0) gets a score that means nothing.
            user_row: as of `user_vector`.
        """
        listed = self._creative_vectors.take(lists, axis=0)
        # Not a matrix product: that rounds a row by its place, and creatives that
        # nothing tells apart must tie.
        scores: np.ndarray = np.vecdot(listed, self.user_vector(context, user_row))
        return scores


class _FirstLayer:
    """What some fields add to the layers that read the user tower's input.

    These are the hidden layer and the straight line, side by side, the latter with
    the coordinate that is always 1: H + D numbers. A row's numbers do not depend on
    the rows beside it, to the last bit.

    Args:
        selector: whose user tower it is.
        fields: of the tower.
        bias: float32 [H + D], added besides.
    """

    def __init__(
        self,
        selector: Selector,
        fields: Sequence[FieldSpec],
        bias: np.ndarray | float = 0.0,
    ) -> None:
        tables = selector.tables
        looked_up = [one for one in fields if one.vocabulary]
        projected = [one for one in fields if not one.vocabulary]
        self._looked_up = [one.key for one in looked_up]
        self._projected = [one.key for one in projected]
        self._lists = [
            (bag, one.key)
            for bag, one in enumerate(looked_up)
            if one.encoding == "index_list"
        ]
        sizes = [one.size if one.encoding == "index_list" else 1 for one in looked_up]
        starts = [tables.span(one).start for one in looked_up]
        self._starts = np.repeat(starts, sizes)
        self._bags = np.cumsum([0, *sizes[:-1]])
        self._table = _Table(tables.weight.detach())
        self._weights, self._bias = _weights(selector, looked_up, projected)
        self._bias += bias

    @property
    def size(self) -> int:
        """Numbers of a row."""
        return len(self._bias)

    def __call__(self, context: FeatureArrays) -> Float[np.ndarray, "N H_D"]:
        """Return the sums of N rows; the bias alone when there is no field."""
        found = [context[key] for key in self._projected]
        if self._looked_up:
            found.insert(0, self._bags_of(context))
        if not found:
            return self._bias[None]
        rows = found[0] if len(found) == 1 else np.concatenate(found, axis=1)
        # Not a matrix product: that rounds a row by its place.
        sums: np.ndarray = np.vecdot(rows[:, None, :], self._weights) + self._bias
        return sums

    def _bags_of(self, context: FeatureArrays) -> Float[np.ndarray, "N W"]:
        """Return what each field finds; what is unknown has a row of zeros."""
        number = len(context[self._looked_up[0]])
        values = [context[key].reshape(number, -1) for key in self._looked_up]
        found = self._table[np.concatenate(values, axis=1) + self._starts]
        if self._lists:
            found = np.add.reduceat(found, self._bags, axis=1)
        for bag, key in self._lists:
            known = (context[key] > 0).sum(1, keepdims=True)
            found[:, bag] /= np.maximum(known, 1)
        return found.reshape(number, -1)


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


def _kept(
    layer: _FirstLayer, features: FeatureArrays, most: int
) -> Float[np.ndarray, "N H_D"] | None:
    """Return the sums of all rows, or none if there are too many of them."""
    number = max((len(values) for values in features.values()), default=0)
    if number == 0 or number * layer.size > most:
        return None
    blocks = [
        layer({key: v[start : start + _BLOCK] for key, v in features.items()})
        for start in range(0, number, _BLOCK)
    ]
    return np.concatenate(blocks)


def _kept_values(
    selector: Selector, one: FieldSpec, most: int
) -> Float[np.ndarray, "V H_D"] | None:
    """Return what each value of a field adds, or none if they cannot be listed."""
    if one.encoding != "index":
        return None
    values = np.arange(selector.tables.span(one).size)
    return _kept(_FirstLayer(selector, [one]), {one.key: values}, most)


def _weights(
    selector: Selector, looked_up: Sequence[FieldSpec], projected: Sequence[FieldSpec]
) -> tuple[Float[np.ndarray, "H_D W"], Float[np.ndarray, " H_D"]]:
    """Return what fields are multiplied with, and what their projections add.

    To project is linear, and so is what reads it: one product for both.
    """
    layers, places = _layers(selector), _places(selector)
    weights = [layers[:, places[one.key]] for one in looked_up]
    bias = np.zeros(len(layers), np.float32)
    for one in projected:
        projection = _projection(selector, one)
        read = layers[:, places[one.key]]
        weights.append(read @ _array(projection.weight))
        bias += read @ _array(projection.bias)
    return np.concatenate(weights or [layers[:, :0]], axis=1), bias


def _layers(selector: Selector) -> Float[np.ndarray, "H_D W"]:
    """Return the weights of all that reads the user tower's input."""
    tower = selector.user_tower
    both = [_array(tower.hidden.weight), _array(tower.straight.weight)]
    return np.pad(np.concatenate(both), ((0, 1), (0, 0)))


def _first_bias(selector: Selector) -> Float[np.ndarray, " H_D"]:
    """Return the biases of hidden layer and output, and 1; all requests have them."""
    tower = selector.user_tower
    ones = np.ones(1, np.float32)
    bias = np.concatenate([_array(tower.hidden.bias), _array(tower.out.bias), ones])
    # Without any field of user or request the tower reads a constant 1.
    return bias if selector.user_encoder.fields else bias + _layers(selector)[:, 0]


def _places(selector: Selector) -> Mapping[str, slice]:
    """Return where each field stands in the user tower's input."""
    places, at = {}, 0
    for one in selector.user_encoder.fields:
        size = (
            selector.tables.dim
            if one.vocabulary
            else _projection(selector, one).out_features
        )
        places[one.key] = slice(at, at + size)
        at += size
    return places


def _projection(selector: Selector, one: FieldSpec) -> nn.Linear:
    projection = selector.user_encoder.projections[module_key(one.key)]
    assert isinstance(projection, nn.Linear)
    return projection


def _array(weight: Tensor) -> np.ndarray:
    found: np.ndarray = weight.detach().numpy()
    return found
