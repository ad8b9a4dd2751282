"""FeatureSpec: which fields there are, how each is encoded, by which vocabulary.

The spec is fitted once, on the training window, travels inside the bundle and is
the only thing that tells a model its input sizes. Its fingerprint is checked when
a bundle is opened and is written into the manifest.
"""

import hashlib
from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.schema import Kind, Side

FeatureArrays = Mapping[str, np.ndarray]
"""Field key (`creative.title`) -> encoded rows; shapes in `FieldSpec.encoding`."""

Encoding = Literal["index", "index_list", "number", "vector"]
"""What an encoded field looks like, see `FieldSpec.encoding`."""


class VocabularySpec(Config):
    """One table of known values; index 0 is 'unknown or missing'."""

    name: str
    num_values: int = Field(ge=0)
    """Distinct values kept, by falling count; indices 1 .. num_values."""
    num_buckets: int = Field(default=0, ge=0)
    """Hash buckets for values outside the vocabulary; 0 = they become index 0."""
    digest: str = ""
    """Digest of the values and their counts."""

    @property
    def size(self) -> int:
        """Rows an embedding table needs, the unknown row included."""
        return 1 + self.num_values + self.num_buckets


class FieldSpec(Config):
    """One declared feature after fitting."""

    name: str
    of: Side
    kind: Kind
    column: str
    """The column of its table that holds it."""
    vocabulary: str | None = None
    """Name of its vocabulary; only for id, category and category_list."""
    size: int = Field(default=0, ge=0)
    """Numbers per value (vector, text, image) or list length (category_list)."""
    encoder: str | None = None
    """Name of the text or image encoder, see `features.content`."""
    mean: float = 0.0
    scale: float = Field(default=1.0, gt=0)
    """Numbers and vectors are stored as (value - mean) / scale."""

    @property
    def key(self) -> str:
        """The field's name in feature arrays, unique over sides: `user.age_band`."""
        return f"{self.of}.{self.name}"

    @property
    def encoding(self) -> Encoding:
        """Shape and type of the encoded field for N rows.

        index: int32 [N]; index_list: int32 [N, size], 0 = padding;
        number: float32 [N, 2] (value, is_missing); vector: float32 [N, size + 1],
        the last column 1 where the value is known and 0 (with zeros) where not.
        """
        if self.kind in ("id", "category"):
            return "index"
        if self.kind == "category_list":
            return "index_list"
        return "number" if self.kind == "number" else "vector"

    @property
    def width(self) -> int:
        """Columns of the encoded field, 1 for a plain index."""
        return {
            "index": 1,
            "index_list": self.size,
            "number": 2,
            "vector": self.size + 1,
        }[self.encoding]


class FeatureSpec(Config):
    """All fitted fields and vocabularies of one dataset."""

    fields: tuple[FieldSpec, ...]
    vocabularies: tuple[VocabularySpec, ...]

    def of(self, *sides: Side) -> tuple[FieldSpec, ...]:
        """Return the fields of these sides, in declared order."""
        return tuple(field for field in self.fields if field.of in sides)

    def vocabulary(self, name: str) -> VocabularySpec:
        """Return one vocabulary; `KeyError` when it does not exist."""
        for vocabulary in self.vocabularies:
            if vocabulary.name == name:
                return vocabulary
        raise KeyError(name)

    @property
    def fingerprint(self) -> str:
        """Digest of everything above: two equal fingerprints encode alike."""
        text = self.model_dump_json()
        return hashlib.sha256(text.encode()).hexdigest()[:32]
