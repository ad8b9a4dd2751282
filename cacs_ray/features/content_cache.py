"""The content cache: digest -> vector, on disk, as append-only Parquet shards.

A shard is written aside, synced and renamed, so it is there whole or not at all;
its pages carry checksums, so one damaged later is noticed, left out and its
contents are encoded again.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cacs_ray.ids import IdIndex

logger = logging.getLogger(__name__)

_DIGEST: Final = "digest"
_VECTOR: Final = "vector"


class ContentCache:
    """Vectors of one encoder.

    Several processes may write at once: shards are named after what they hold,
    so the worst that can happen is that a content is encoded twice.

    Args:
        directory: where the shards are; made at the first `append`.
        size: numbers per vector; shards of another size are left out.
    """

    def __init__(self, directory: Path, size: int) -> None:
        self._directory = directory
        self._schema = pa.schema(
            [
                pa.field(_DIGEST, pa.string(), nullable=False),
                pa.field(_VECTOR, pa.list_(pa.float32(), size), nullable=False),
            ]
        )
        self._size = size

    def lookup(self, digests: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return what is known of these contents.

        Args:
            digests: N distinct content digests.

        Returns:
            float32 [N, size] vectors (zeros where unknown) and bool [N]: True
            where the cache holds the content.
        """
        vectors = np.zeros((len(digests), self._size), np.float32)
        is_cached = np.zeros(len(digests), bool)
        wanted = IdIndex(pa.array(digests, pa.string()))
        for path in sorted(self._directory.glob("*.parquet")):
            shard = self._read_shard(path, wanted)
            if shard is None:
                continue
            row = wanted.find(shard[_DIGEST])
            found = row >= 0
            vectors[row[found]] = as_matrix(shard[_VECTOR], self._size)[found]
            is_cached[row[found]] = True
        return vectors, is_cached

    def append(self, digests: Sequence[str], vectors: np.ndarray) -> None:
        """Add one shard; nothing is written for no contents.

        Args:
            digests: N distinct content digests.
            vectors: float32 [N, size].
        """
        if not digests:
            return
        table = pa.table(
            [pa.array(digests, pa.string()), as_vectors(vectors)], schema=self._schema
        )
        name = hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest()
        self._directory.mkdir(parents=True, exist_ok=True)
        aside = self._directory / f"{name}.partial-{os.getpid()}"
        with aside.open("wb") as file:
            pq.write_table(table, file, write_page_checksum=True)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._directory / f"{name}.parquet")

    def _read_shard(self, path: Path, wanted: IdIndex) -> pa.Table | None:
        """Return a shard's rows if it holds any wanted digest and is sound."""
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                if not file.schema_arrow.equals(self._schema):
                    raise pa.ArrowInvalid(f"columns are {file.schema_arrow.names}")
                digests = file.read(columns=[_DIGEST])[_DIGEST]
                if not (wanted.find(digests) >= 0).any():
                    return None
                return file.read()
        except (pa.ArrowException, OSError, UnicodeError) as error:
            first_line = str(error).splitlines()[0] if str(error) else "unreadable"
            logger.warning(
                "content cache: %s is damaged and left out, its contents are "
                "encoded again (%s)",
                path.name,
                first_line,
            )
            return None


def as_vectors(matrix: np.ndarray) -> pa.FixedSizeListArray:
    """Return float32 [N, size] as a column of fixed-size lists."""
    flat = pa.array(np.ascontiguousarray(matrix, np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])


def as_matrix(vectors: pa.ChunkedArray, size: int) -> np.ndarray:
    """Return a column of fixed-size lists as float32 [N, size]."""
    flat = vectors.combine_chunks().flatten()
    matrix: np.ndarray = flat.to_numpy(zero_copy_only=False).reshape(-1, size)
    return matrix
