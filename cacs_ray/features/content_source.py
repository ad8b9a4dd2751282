"""One kind of content, where its bytes are, and which encoder turns it to vectors."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from cacs_ray.errors import InputError
from cacs_ray.features.image import (
    ImageEncoder,
    image_encoder,
    pixels_of,
    read_picture,
)
from cacs_ray.features.text import TextEncoder, text_encoder

ContentKind = Literal["text", "image"]

MAX_FILE_BYTES: Final = 64 * 2**20
"""Picture files above this size count as unreadable."""


@dataclass(frozen=True, slots=True)
class ContentSource:
    """Reads, digests and encodes contents; small, so that it travels to workers."""

    kind: ContentKind
    encoder: str
    """Name of a text or image encoder; the encoder itself is one per process."""
    root: Path | None
    """Directory of the picture files when values are paths; None when values are
    the contents themselves. Workers must see it under the same path."""

    @property
    def model(self) -> TextEncoder | ImageEncoder:
        """The encoder."""
        by_name = text_encoder if self.kind == "text" else image_encoder
        return by_name(self.encoder)

    def read(self, value: bytes) -> bytes | None:
        """Return the content's bytes, or None for a picture file that is not there.

        Raises:
            InputError: the path leaves the root.
        """
        if self.root is None:
            return value
        path = confined_path(self.root, value)
        try:
            # Anything but a plain file of bounded size could block or fill memory.
            if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
                return None
            return path.read_bytes()
        except OSError:
            return None

    def digest(self, value: bytes) -> str | None:
        """Return the key of a content in the cache: encoder, version and bytes."""
        content = self.read(value)
        if content is None:
            return None
        key = f"{self.model.name} {self.model.version}".encode()
        hasher = hashlib.blake2b(key + b"\0", digest_size=16)
        hasher.update(content)
        return hasher.hexdigest()

    def encode(self, values: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Encode N values.

        Returns:
            float32 [M, size] vectors of the M readable ones, in order, and bool
            [N]: True for these. A text is always readable: bytes that are no
            UTF-8 are replaced.
        """
        if self.kind == "text":
            texts = [value.decode("utf-8", errors="replace") for value in values]
            vectors = text_encoder(self.encoder).encode(texts)
            return vectors, np.ones(len(values), bool)
        contents = [self.read(value) for value in values]
        pictures = [None if c is None else read_picture(c) for c in contents]
        is_readable = np.array([picture is not None for picture in pictures], bool)
        pixels = pixels_of([p for p in pictures if p is not None])
        return image_encoder(self.encoder).encode(pixels), is_readable


def confined_path(root: Path, value: bytes) -> Path:
    """Return the file that a path in a table names, links followed.

    Raises:
        InputError: the file would be outside the root.
    """
    name = value.decode("utf-8", errors="surrogateescape")
    shown = value.decode("utf-8", errors="replace")
    if "\0" not in name:
        path = (root / name).resolve()
        if path.is_relative_to(root):
            return path
    raise InputError(
        f"picture path {shown[:200]!r} leaves the dataset's directory",
        rule="picture_path_confined",
    )


def content_bytes(
    values: pa.ChunkedArray | pa.Array, kind: ContentKind
) -> tuple[pa.ChunkedArray, bool]:
    """Return values as one binary column, and whether they are text, not bytes.

    Raises:
        InputError: texts that are not strings, pictures that are neither strings
            (paths) nor binary.
    """
    column = (
        values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    )
    stored = column.type
    if pa.types.is_dictionary(stored):
        stored = stored.value_type
    is_string = any(test(stored) for test in _STRING_TESTS)
    is_binary = kind == "image" and any(test(stored) for test in _BINARY_TESTS)
    if not (is_string or is_binary or pa.types.is_null(stored)):
        wanted = "strings" if kind == "text" else "paths (strings) or bytes (binary)"
        raise InputError(
            f"{kind} values must be {wanted}, got {stored}", rule="wrong_type"
        )
    plain = column.cast(pa.large_string()) if is_string else column
    return plain.cast(pa.large_binary()), is_string


_STRING_TESTS: Final = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
)
_BINARY_TESTS: Final = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)
