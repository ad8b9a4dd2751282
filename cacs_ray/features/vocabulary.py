"""Vocabularies: values seen in training, their indices and their counts.

Index 0 is unknown or missing, 1 .. V are the kept values by falling count, and
V + 1 .. V + H are hash buckets, when declared, for values outside.
"""

import hashlib
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cacs_ray.features.spec import VocabularySpec

# Below this many rows a dictionary beats hashing the whole vocabulary again.
_FEW_ROWS = 4096


class Vocabulary:
    """Values of one vocabulary with the impressions behind each.

    Args:
        name: as in the feature spec.
        values: string [V], distinct, most frequent first.
        value_counts: float [V], weighted training impressions of each value.
        num_buckets: hash buckets for values outside, 0 = none.
        bucket_counts: float [num_buckets], impressions that fell into each.
    """

    def __init__(
        self,
        name: str,
        values: pa.Array,
        value_counts: np.ndarray,
        *,
        num_buckets: int = 0,
        bucket_counts: np.ndarray | None = None,
    ) -> None:
        self.name = name
        self.values = values
        buckets = np.zeros(num_buckets) if bucket_counts is None else bucket_counts
        self.counts: np.ndarray = np.concatenate(
            [[0.0], np.asarray(value_counts, float), buckets]
        )
        """float64 [size]: training impressions by index; 0 for the unknown."""
        self.num_buckets = num_buckets

    @property
    def spec(self) -> VocabularySpec:
        """Its entry in the feature spec, with the digest of values and counts."""
        digest = hashlib.sha256(self.counts.tobytes())
        digest.update("\0".join(self.values.to_pylist()).encode())
        return VocabularySpec(
            name=self.name,
            num_values=len(self.values),
            num_buckets=self.num_buckets,
            digest=digest.hexdigest()[:32],
        )

    @cached_property
    def _index(self) -> Mapping[str, int]:
        return {value: row + 1 for row, value in enumerate(self.values.to_pylist())}

    def encode(self, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return the index of each value, int32 [N]; null and unknown become 0.

        >>> kinds = Vocabulary("kind", pa.array(["hat", "shoe"]), np.array([9, 4]))
        >>> kinds.encode(pa.array(["shoe", None, "glove", "hat"])).tolist()
        [2, 0, 0, 1]
        """
        text = column.cast(pa.string())
        if len(text) < _FEW_ROWS:
            found = np.array(
                [self._index.get(value, 0) for value in text.to_pylist()], np.int32
            )
        else:
            rows = pc.index_in(text, value_set=self.values)
            found = pc.add(rows, 1).fill_null(0).to_numpy().astype(np.int32)
        return self._fill_buckets(text, found) if self.num_buckets else found

    def _fill_buckets(
        self, text: pa.Array | pa.ChunkedArray, found: np.ndarray
    ) -> np.ndarray:
        outside = np.flatnonzero((found == 0) & text.is_valid().to_numpy(False))
        result = found.copy()
        for row, value in zip(outside, text.take(outside).to_pylist(), strict=True):
            bucket = stable_hash(value) % self.num_buckets
            result[row] = 1 + len(self.values) + bucket
        return result

    def to_table(self) -> pa.Table:
        """Return values and counts; the bucket rows have a null value."""
        values = pa.concat_arrays(
            [self.values, pa.nulls(self.num_buckets, pa.string())]
        )
        return pa.table({"value": values, "count": self.counts[1:]})

    @classmethod
    def from_table(cls, spec: VocabularySpec, table: pa.Table) -> "Vocabulary":
        """Rebuild a vocabulary from `to_table`."""
        values = table["value"].slice(0, spec.num_values).combine_chunks()
        counts = table["count"].to_numpy()
        return cls(
            spec.name,
            values,
            counts[: spec.num_values],
            num_buckets=spec.num_buckets,
            bucket_counts=counts[spec.num_values :],
        )


def stable_hash(value: str) -> int:
    """64-bit hash of a text, the same on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest())
