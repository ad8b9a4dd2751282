"""Texts of a request, encoded while it waits: no cache, no Ray."""

import numpy as np
import pyarrow as pa

from cacs_ray.features.spec import FieldSpec
from cacs_ray.features.text import text_encoder


def encode_request_text(field: FieldSpec, column: pa.ChunkedArray) -> np.ndarray:
    """Encode a text column in this process; a `ContentEncoder`.

    Args:
        field: a field of kind text with its encoder.
        column: N texts; null (or a column of nulls) is unknown.

    Returns:
        float32 [N, size + 1], the last column 1 where the text is known.
    """
    vectors = np.zeros((len(column), field.width), np.float32)
    texts = column.to_pylist()
    known = [row for row, text in enumerate(texts) if text is not None]
    if known:
        encoder = text_encoder(field.encoder or "")
        vectors[known, :-1] = encoder.encode([texts[row] for row in known])
        vectors[known, -1] = 1.0
    return vectors
