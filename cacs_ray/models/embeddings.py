"""Encoded fields -> numbers: one fused table of ids, one projection per vector.

N  rows (requests, ads or creatives)   L  values per list field
D  embedding width   V  size of one vocabulary
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from cacs_ray.features.batch import FeatureTensors
from cacs_ray.features.spec import FeatureSpec, FieldSpec

INITIAL_SCALE = 0.05
"""Standard deviation of a fresh embedding: small, so that content speaks first."""

Storage = Literal["float32", "bfloat16"]
"""How embeddings are kept; they are always computed with as float32."""

SMALL_VOCABULARY = 1024
"""Up to this size a vocabulary is gathered whole in every step."""


def module_key(name: str) -> str:
    """Return a name that `nn.ModuleDict` accepts, one to one.

    >>> module_key("creative.title")
    'm_creative%2Etitle'
    """
    return "m_" + name.replace("%", "%25").replace(".", "%2E")


@dataclass(frozen=True, slots=True)
class Widths:
    """Numbers that each kind of field becomes."""

    embedding: int
    """id, category, category_list and number fields."""
    content: int
    """vector, text and image fields."""


@dataclass(frozen=True, slots=True)
class Span:
    """The rows of one vocabulary in the fused table."""

    start: int
    """Row of index 0: unknown or missing, always zero."""
    size: int
    """V, index 0 included."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """The rows of a fused table that one step reads, side by side.

    Their gradient is as large as the batch, not as the vocabulary.
    """

    values: Float[Tensor, "U D"]
    """Row 0 is zero: the place of every vocabulary's index 0."""
    places: Int[Tensor, " R"]
    """Row of the fused table -> row of `values`; valid for rows that are in it."""
    known: dict[tuple[object, ...], Tensor] = field(default_factory=dict)
    """What this step has looked up, so that two towers look it up once."""

    def look_up(
        self, key: tuple[object, ...], rows: Int[Tensor, "*N"]
    ) -> Float[Tensor, "*N D"]:
        """Return the values of rows of the fused table, once for each key."""
        if key not in self.known:
            places = self.places[rows]
            self.known[key] = functional.embedding(places, self.values, padding_idx=0)
        return self.known[key]


class EmbeddingTables(nn.Module):
    """One fused table of all vocabularies, shared by every field that uses them.

    Index 0 of a vocabulary (unknown or missing) is zero and stays zero. While a
    step trains, its rows stand side by side in `gathered` and lookups go there.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        fields: Sequence[FieldSpec],
        dim: int,
        storage: Storage = "float32",
    ) -> None:
        super().__init__()
        names = dict.fromkeys(f.vocabulary for f in fields if f.vocabulary is not None)
        self.dim = dim
        self.fields = tuple(f for f in fields if f.vocabulary is not None)
        self.spans: dict[str, Span] = {}
        start = 0
        for name in names:
            self.spans[name] = Span(start, spec.vocabulary(name).size)
            start += self.spans[name].size
        kept_as = getattr(torch, storage)
        self.weight = nn.Parameter(torch.empty(start, dim, dtype=kept_as))
        self.gathered: Gathered | None = None
        with torch.no_grad():
            self.weight.normal_(std=INITIAL_SCALE)
            self.weight[[span.start for span in self.spans.values()]] = 0.0

    def span(self, of: FieldSpec) -> Span:
        """Return the rows that a field looks up."""
        return self.spans[of.vocabulary or ""]

    def table(self, of: FieldSpec) -> Float[Tensor, "V D"]:
        """Return the embeddings of a field's vocabulary, index 0 first."""
        span = self.span(of)
        return self.weight[span.start : span.start + span.size]

    def forward(self, of: FieldSpec, index: Int[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        """Return the embeddings of a field's values."""
        span = self.span(of)
        rows = index + span.start
        if self.gathered is None:
            found = functional.embedding(rows, self.weight, padding_idx=span.start)
            return found.float()
        key = ("rows", span.start, index.data_ptr(), index.shape)
        return self.gathered.look_up(key, rows)

    def together(
        self, fields: Sequence[FieldSpec], features: FeatureTensors
    ) -> Float[Tensor, "N F D"]:
        """Return the embeddings of F index fields, in one lookup.

        For inference: a lookup of its own for each field costs more than its rows.

        Args:
            fields: at least one, all of them looked up by one index.
            features: field key -> index [N].
        """
        rows = torch.stack(
            [features[one.key] + self.span(one).start for one in fields], dim=1
        )
        return functional.embedding(rows, self.weight).float()

    @torch.no_grad()
    def take_from(
        self, other: "EmbeddingTables", places: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Copy the rows of every vocabulary that both have.

        Args:
            other: where to copy from.
            places: vocabulary name -> for each index here the one there, 0 for none:
                such rows stay as they are. None: both number their values alike.
        """
        for name in self.spans.keys() & other.spans.keys():
            ours, theirs = self.spans[name], other.spans[name]
            there = np.arange(ours.size) if places is None else places[name]
            here = np.flatnonzero(there)
            self.weight[ours.start + torch.from_numpy(here)] = other.weight[
                theirs.start + torch.from_numpy(there[here])
            ].to(self.weight.dtype)

    def is_small(self, of: FieldSpec, list_length: int) -> bool:
        """Tell whether lists of a field are read faster by value than by place.

        A row of counts (V numbers) is then no wider than the embeddings of the
        list (L x D numbers).
        """
        return self.span(of).size <= min(list_length * self.dim, SMALL_VOCABULARY)

    def listed_counts(
        self, of: FieldSpec, index: Int[Tensor, "N L"]
    ) -> Float[Tensor, "N V"]:
        """Return how often each value of a vocabulary is in each list.

        Column 0, the padding, is 0 throughout.
        """
        size = self.span(of).size
        known = {} if self.gathered is None else self.gathered.known
        key = ("counts", size, index.data_ptr(), index.shape)
        if key not in known:
            ones = torch.ones_like(index, dtype=torch.float32)
            counts = torch.zeros(len(index), size, device=index.device)
            known[key] = counts.scatter_add_(1, index, ones)
            known[key][:, 0] = 0.0
        return known[key]

    def small_table(self, of: FieldSpec) -> Float[Tensor, "V D"]:
        """Return `table`, through the gathered rows while a step trains."""
        if self.gathered is None:
            return self.table(of).float()
        span = self.span(of)
        index = torch.arange(span.size, device=self.weight.device)
        return self.gathered.look_up(("table", span.start), index + span.start)

    def mean(self, of: FieldSpec, index: Int[Tensor, "N L"]) -> Float[Tensor, "N D"]:
        """Return the mean embedding of each row's known values, zero without any."""
        num_known = (index > 0).sum(-1, keepdim=True).clamp(min=1)
        if self.is_small(of, index.shape[1]):
            return self.listed_counts(of, index) @ self.small_table(of) / num_known
        return self(of, index).sum(1) / num_known


class FieldEncoder(nn.Module):
    """Some fields of one row, side by side.

    id and category fields are looked up; a category_list is the mean of its known
    values; numbers and vectors are projected. Tables are passed in, because both
    towers of a model share them. Without any field the output is a constant 1.
    """

    def __init__(self, fields: Sequence[FieldSpec], widths: Widths) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.projections = nn.ModuleDict()
        self.constant: Tensor
        self.register_buffer("constant", torch.ones(1, 1), persistent=False)
        width = 0
        for one in self.fields:
            is_content = one.encoding == "vector"
            size = widths.content if is_content else widths.embedding
            width += size
            if one.encoding in ("number", "vector"):
                self.projections[module_key(one.key)] = nn.Linear(one.width, size)
        self._index_fields = tuple(f for f in fields if f.encoding == "index")
        self._index_keys = tuple(one.key for one in self._index_fields)
        self.width = max(1, width)
        """Numbers per row of the output."""

    def forward(
        self,
        features: FeatureTensors,
        tables: EmbeddingTables,
        keep: Mapping[str, Float[Tensor, " N"]] | None = None,
    ) -> Float[Tensor, "N W"]:
        """Encode rows.

        Args:
            features: field key -> encoded rows; other fields are ignored.
            tables: the model's embedding tables.
            keep: field key -> factor of its embedding, from a dropout gate.

        Returns:
            One row of `width` numbers per input row; one row in all when
            `features` is empty.
        """
        if not self.fields:
            return self.constant.expand(num_rows(features), 1)
        found = self._found(features, tables)
        parts = []
        for one in self.fields:
            part = found.get(one.key)
            if part is None:
                part = self._encode(one, features[one.key], tables)
            if keep is not None and one.key in keep:
                part = part * keep[one.key].unsqueeze(-1)
            parts.append(part)
        return torch.cat(parts, dim=-1)

    def _found(
        self, features: FeatureTensors, tables: EmbeddingTables
    ) -> Mapping[str, Float[Tensor, "N D"]]:
        """Return by key what one lookup finds for all index fields, in inference."""
        is_training = tables.gathered is not None or torch.is_grad_enabled()
        if is_training or len(self._index_fields) < 2:
            return {}
        found = tables.together(self._index_fields, features)
        return dict(zip(self._index_keys, found.unbind(1), strict=True))

    def _encode(self, one: FieldSpec, value: Tensor, tables: EmbeddingTables) -> Tensor:
        if one.encoding == "index":
            return tables(one, value)
        if one.encoding == "index_list":
            return tables.mean(one, value)
        projected: Tensor = self.projections[module_key(one.key)](value)
        return projected


def gather_rows(
    table: Float[Tensor, "K D"], index: Int[Tensor, "*N"]
) -> Float[Tensor, "*N D"]:
    """Return rows of a computed table.

    A lookup, not `table[index]`, whose gradient is summed in an order that
    changes from run to run when several threads share the work.
    """
    return functional.embedding(index, table)


def num_rows(features: FeatureTensors) -> int:
    """Return the rows of a feature mapping; 1 for an empty one."""
    return next((len(value) for value in features.values()), 1)
