"""Encoded fields -> numbers: one table per vocabulary, one projection per vector.

N  rows (requests, ads or creatives)   L  values per list field
D  embedding width
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from cacs_ray.features.batch import FeatureTensors
from cacs_ray.features.spec import FeatureSpec, FieldSpec

INITIAL_SCALE = 0.05
"""Standard deviation of a fresh embedding: small, so that content speaks first."""


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


class EmbeddingTables(nn.Module):
    """One table per vocabulary, shared by every field that uses it.

    Row 0 (unknown or missing) is zero and stays zero.
    """

    def __init__(
        self, spec: FeatureSpec, fields: Sequence[FieldSpec], dim: int
    ) -> None:
        super().__init__()
        names = dict.fromkeys(f.vocabulary for f in fields if f.vocabulary is not None)
        self.dim = dim
        self.tables = nn.ModuleDict(
            {
                module_key(name): nn.Embedding(
                    spec.vocabulary(name).size, dim, padding_idx=0
                )
                for name in names
            }
        )
        with torch.no_grad():
            for weight in self.tables.parameters():
                weight.normal_(std=INITIAL_SCALE)
                weight[0] = 0.0

    def forward(
        self, field: FieldSpec, index: Int[Tensor, "*N"]
    ) -> Float[Tensor, "*N D"]:
        """Return the embeddings of a field's values."""
        embedded: Tensor = self.table(field)(index)
        return embedded

    def mean(self, field: FieldSpec, index: Int[Tensor, "N L"]) -> Float[Tensor, "N D"]:
        """Return the mean embedding of each row's known values, zero without any."""
        weight = self.table(field).get_parameter("weight")
        return functional.embedding_bag(index, weight, mode="mean", padding_idx=0)

    def table(self, field: FieldSpec) -> nn.Module:
        """Return the table that a field looks up."""
        return self.tables[module_key(field.vocabulary or "")]


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
        for field in self.fields:
            is_content = field.encoding == "vector"
            size = widths.content if is_content else widths.embedding
            width += size
            if field.encoding in ("number", "vector"):
                self.projections[module_key(field.key)] = nn.Linear(field.width, size)
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
        parts = []
        for field in self.fields:
            part = self._encode(field, features[field.key], tables)
            if keep is not None and field.key in keep:
                part = part * keep[field.key].unsqueeze(-1)
            parts.append(part)
        return torch.cat(parts, dim=-1)

    def _encode(
        self, field: FieldSpec, value: Tensor, tables: EmbeddingTables
    ) -> Tensor:
        if field.encoding == "index":
            return tables(field, value)
        if field.encoding == "index_list":
            return tables.mean(field, value)
        projected: Tensor = self.projections[module_key(field.key)](value)
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
