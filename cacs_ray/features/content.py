"""Stored contents -> vectors: every distinct content is encoded once, ever.

    values -> distinct values -> digests -> cache -> what is missing -> encoder

A content's digest covers encoder, its version and the bytes (of the text, or of
the picture, not of its file name), so a cache may be shared by datasets and runs.
Many missing contents are encoded by Ray Data workers, few in this process.
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from cacs_ray.features.content_cache import ContentCache, as_matrix, as_vectors
from cacs_ray.features.content_source import (
    ContentKind,
    ContentSource,
    content_bytes,
)
from cacs_ray.features.image import IMAGE_ENCODERS, image_encoder
from cacs_ray.features.text import (
    TEXT_ENCODERS,
    default_text_encoder,
    text_encoder,
    unknown_encoder,
)

__all__ = [
    "ContentKind",
    "default_text_encoder",
    "encode_content",
    "encode_distinct",
    "encoder_size",
    "image_encoder",
    "text_encoder",
]

logger = logging.getLogger(__name__)

EncodedChunk = tuple[list[str], np.ndarray]
"""Digests of the readable contents of a chunk, and float32 [M, size] vectors."""

_DIGEST: Final = "digest"
_VALUE: Final = "value"
_VECTOR: Final = "vector"
_NUM_NAMED: Final = 3
_PIECE: Final = 65_536


def encoder_size(name: str) -> int:
    """Return the numbers per content of a text or image encoder.

    Raises:
        InputError: no such encoder, or the content extra is not installed.
    """
    if name in TEXT_ENCODERS:
        return text_encoder(name).size
    if name in IMAGE_ENCODERS:
        return image_encoder(name).size
    raise unknown_encoder(name, "content", [*TEXT_ENCODERS, *IMAGE_ENCODERS])


def encode_content(
    values: pa.ChunkedArray | pa.Array,
    kind: ContentKind,
    encoder: str,
    *,
    cache: Path,
    root: Path,
) -> np.ndarray:
    """Encode one column of texts or pictures.

    Args:
        values: N strings (text); N file paths or N encoded pictures as binary
            (image). Null = unknown; the empty text is a text.
        kind: what the values are.
        encoder: name of a text or image encoder.
        cache: directory of vectors by content, made when needed.
        root: directory that picture paths are relative to and confined to.

    Returns:
        float32 [N, size + 1] in the order of `values`, the last column 1.0 where
        the content is known and 0.0 (the row all zeros) where it is null or a
        picture that cannot be read; those are counted in one logged warning.

    Raises:
        InputError: unknown encoder, content extra not installed, values of
            another type, or a path that leaves `root`.
    """
    rows, index = encode_distinct(values, kind, encoder, cache=cache, root=root)
    return rows[index]


def encode_distinct(
    values: pa.ChunkedArray | pa.Array,
    kind: ContentKind,
    encoder: str,
    *,
    cache: Path,
    root: Path,
) -> tuple[np.ndarray, np.ndarray]:
    """Encode as `encode_content` does, but return each distinct value once.

    Returns:
        float32 [K + 1, size + 1], the distinct values after a first row of zeros
        for null, and int64 [N], the row of each value.
    """
    column, is_string = content_bytes(values, kind)
    is_path = kind == "image" and is_string
    source = ContentSource(kind, encoder, root.resolve() if is_path else None)
    coded = column.dictionary_encode().combine_chunks()
    distinct: list[bytes] = coded.dictionary.to_pylist()
    index = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False) + 1

    digests = [source.digest(value) for value in distinct]
    contents = {d: v for d, v in zip(digests, distinct, strict=True) if d}
    vectors, is_known = _cached_or_encoded(source, contents, cache / encoder)

    # The row after the last one stands for what has no digest: no such file.
    row_of = {digest: row for row, digest in enumerate(contents)}
    row = np.array([row_of.get(d or "", len(contents)) for d in digests], np.int64)
    rows = np.zeros((len(distinct) + 1, source.model.size + 1), np.float32)
    rows[1:, -1] = np.append(is_known, False)[row]
    # In pieces: the vectors of a large catalogue are held twice at most.
    for start in range(0, len(row), _PIECE):
        piece = row[start : start + _PIECE]
        readable = np.flatnonzero(piece < len(vectors))
        rows[1 + start + readable, :-1] = vectors[piece[readable]]
    _warn_of_unreadable(source, distinct, digests, rows[1:, -1] > 0)
    return rows, index.astype(np.int64)


def _cached_or_encoded(
    source: ContentSource, contents: Mapping[str, bytes], directory: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 [K, size] and bool [K] for K contents by digest.

    Every chunk is cached as soon as it is encoded: an interruption loses no more.
    """
    store = ContentCache(directory, source.model.size)
    digests = list(contents)
    vectors, is_known = store.lookup(digests)
    missing = [digests[row] for row in np.flatnonzero(~is_known)]
    row_of = {digest: row for row, digest in enumerate(digests)}
    num_done = 0
    for chunk, chunk_vectors in _encode(source, {d: contents[d] for d in missing}):
        store.append(chunk, chunk_vectors)
        rows = [row_of[digest] for digest in chunk]
        vectors[rows] = chunk_vectors
        is_known[rows] = True
        num_done += len(chunk)
        logger.info("%s: %d of %d encoded", source.encoder, num_done, len(missing))
    return vectors, is_known


def _encode(
    source: ContentSource, contents: Mapping[str, bytes]
) -> Iterator[EncodedChunk]:
    chunk_size = source.model.chunk_size
    table = pa.table(
        {
            _DIGEST: pa.array(contents.keys(), pa.string()),
            _VALUE: pa.array(contents.values(), pa.large_binary()),
        }
    )
    chunks = [
        table.slice(start, chunk_size) for start in range(0, len(table), chunk_size)
    ]
    is_large = len(table) > 2 * chunk_size and _may_start_workers()
    encoded = (
        _map_with_ray(source, chunks) if is_large else map(EncodeChunk(source), chunks)
    )
    for answer in encoded:
        vectors = as_matrix(answer[_VECTOR], source.model.size)
        yield answer[_DIGEST].to_pylist(), vectors


class EncodeChunk:
    """Encodes one chunk of contents; in a Ray worker it lives as an actor."""

    def __init__(self, source: ContentSource) -> None:
        self._source = source

    def __call__(self, chunk: pa.Table) -> pa.Table:
        """Return digests and vectors of the contents that can be read."""
        vectors, is_readable = self._source.encode(chunk[_VALUE].to_pylist())
        digests = chunk[_DIGEST].filter(pa.array(is_readable))
        return pa.table({_DIGEST: digests, _VECTOR: as_vectors(vectors)})


def _may_start_workers() -> bool:
    """Tell whether Ray runs and this is its driver.

    A task that started workers of its own would hold the processor they wait for.
    """
    if "ray" not in sys.modules:
        return False
    import ray

    if not ray.is_initialized():
        return False
    return ray.get_runtime_context().worker.mode != ray.WORKER_MODE


def _map_with_ray(
    source: ContentSource, chunks: Sequence[pa.Table]
) -> Iterator[pa.Table]:
    """Encode chunks by one to as many workers as chunks and processors allow."""
    import ray
    import ray.data

    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_cpus = int(resources.get("CPU", 1))
    answers = ray.data.from_arrow(list(chunks)).map_batches(
        EncodeChunk,
        fn_constructor_args=(source,),
        batch_size=source.model.chunk_size,
        batch_format="pyarrow",
        num_cpus=1,
        concurrency=(1, max(1, min(num_cpus, len(chunks) // 2))),
    )
    yield from answers.iter_batches(batch_size=None, batch_format="pyarrow")


def _warn_of_unreadable(
    source: ContentSource,
    values: Sequence[bytes],
    digests: Sequence[str | None],
    is_known: np.ndarray,
) -> None:
    unreadable = np.flatnonzero(~is_known)
    if len(unreadable) == 0:
        return
    names = [
        str(digests[row])
        if source.root is None
        else values[row].decode(errors="replace")
        for row in unreadable[:_NUM_NAMED]
    ]
    logger.warning(
        "%d of %d distinct pictures cannot be read and count as unknown: %s%s",
        len(unreadable),
        len(values),
        ", ".join(names),
        ", ..." if len(unreadable) > _NUM_NAMED else "",
    )
