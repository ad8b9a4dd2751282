"""Raw rows -> integer and float arrays. THE ONLY ENCODER.

Training, evaluation, batch decisions and the service all come through here, so a
value cannot mean one thing in a log and another in a request.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cacs_ray.features.spec import FeatureArrays, FeatureSpec, FieldSpec
from cacs_ray.features.vocabulary import Vocabulary
from cacs_ray.schema import Side

ContentEncoder = Callable[[FieldSpec, pa.ChunkedArray], np.ndarray]
"""Text or image field, its values -> float [N, size + 1], the last column 1 where
the content is known."""

# Beyond ten deviations a number is an outlier of the source, not information.
_MAX_DEVIATIONS = 10.0
_PIECE = 65_536


def encode_rows(
    table: pa.Table,
    spec: FeatureSpec,
    vocabularies: Mapping[str, Vocabulary],
    *sides: Side,
    content: ContentEncoder,
) -> FeatureArrays:
    """Encode the fields of some sides that a table's rows carry.

    Args:
        table: N rows with the columns that the fields name; a column that is
            absent counts as missing in every row.
        spec: the fitted fields.
        vocabularies: by name, as fitted.
        sides: which sides' fields to encode.
        content: encodes text and images; called once per such field.

    Returns:
        Field key -> N encoded rows, shapes as in `FieldSpec.encoding`; vectors
        are float16, as they are kept in stores and bundles, so that both doors
        see the same digits.
    """
    return {
        field.key: _encode_field(field, _column(table, field), vocabularies, content)
        for field in spec.of(*sides)
    }


class EncodedOnce:
    """Encodes the contents of entities once where they are asked for twice.

    Fitting needs them for their scale and the store to keep them; in between they
    are held, and given away at the second call. A copy sent to a worker holds none.

    Args:
        encode: encodes for good; contents of requests go straight to it.
    """

    def __init__(self, encode: ContentEncoder) -> None:
        self._encode = encode
        self._held: dict[str, np.ndarray] = {}

    def __call__(self, field: FieldSpec, column: pa.ChunkedArray) -> np.ndarray:
        """Encode one column; the same field comes with the same column again."""
        if field.of == "request":
            return self._encode(field, column)
        held = self._held.pop(field.key, None)
        if held is None:
            held = self._held[field.key] = self._encode(field, column)
        return held

    def __reduce__(self) -> tuple[type["EncodedOnce"], tuple[ContentEncoder]]:
        return EncodedOnce, (self._encode,)


def blank_rows(spec: FeatureSpec, *sides: Side, num_rows: int = 1) -> FeatureArrays:
    """Return rows about which nothing is known: the unknown user, the padding."""
    arrays: dict[str, np.ndarray] = {}
    for field in spec.of(*sides):
        if field.encoding == "index":
            arrays[field.key] = np.zeros(num_rows, np.int32)
        elif field.encoding == "index_list":
            arrays[field.key] = np.zeros((num_rows, field.size), np.int32)
        elif field.encoding == "number":
            arrays[field.key] = np.tile(np.array([0, 1], np.float32), (num_rows, 1))
        else:
            arrays[field.key] = np.zeros((num_rows, field.width), np.float16)
    return arrays


def with_blank_row(
    arrays: FeatureArrays, spec: FeatureSpec, *sides: Side
) -> FeatureArrays:
    """Put the blank row before the encoded rows of an entity table."""
    blank = blank_rows(spec, *sides)
    return {key: np.concatenate([blank[key], arrays[key]]) for key in arrays}


def _column(table: pa.Table, field: FieldSpec) -> pa.ChunkedArray:
    if field.column in table.column_names:
        return table[field.column]
    return pa.chunked_array([pa.nulls(table.num_rows)])


def _encode_field(
    field: FieldSpec,
    column: pa.ChunkedArray,
    vocabularies: Mapping[str, Vocabulary],
    content: ContentEncoder,
) -> np.ndarray:
    if field.kind in ("text", "image"):
        return _scale_vectors(content(field, column), field)
    if field.kind == "vector":
        return _scale_vectors(vectors_of(column, field.size), field)
    if field.kind == "number":
        return _encode_numbers(column, field)
    vocabulary = vocabularies[field.vocabulary or ""]
    if field.kind == "category_list":
        return _encode_lists(column, field.size, vocabulary)
    return vocabulary.encode(column)


def _encode_numbers(column: pa.ChunkedArray, field: FieldSpec) -> np.ndarray:
    values = column.cast(pa.float64()).to_numpy().astype(np.float64)
    scaled = (values - field.mean) / field.scale
    is_missing = ~np.isfinite(scaled)
    scaled = np.clip(
        np.where(is_missing, 0.0, scaled), -_MAX_DEVIATIONS, _MAX_DEVIATIONS
    )
    return np.stack([scaled, is_missing], axis=1).astype(np.float32)


def _encode_lists(
    column: pa.ChunkedArray, length: int, vocabulary: Vocabulary
) -> np.ndarray:
    encoded = np.zeros((len(column), length), np.int32)
    if pa.types.is_null(column.type):
        return encoded
    lists = column.combine_chunks()
    rows = pc.list_parent_indices(lists).to_numpy()
    if len(rows) == 0:
        return encoded
    # Place of each value inside its own list: newest first, the tail is cut.
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    place = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
    values = vocabulary.encode(pc.list_flatten(lists))
    kept = place < length
    encoded[rows[kept], place[kept]] = values[kept]
    return encoded


def vectors_of(column: pa.ChunkedArray, size: int) -> np.ndarray:
    """Return list values as float32 [N, size + 1]; null is zeros with flag 0."""
    encoded = np.zeros((len(column), size + 1), np.float32)
    if pa.types.is_null(column.type):
        return encoded
    lists = column.combine_chunks()
    is_known = lists.is_valid().to_numpy(False)
    flat = pc.list_flatten(lists.drop_null()).to_numpy(False)
    encoded[is_known, :size] = flat.reshape(-1, size)
    encoded[is_known, size] = 1.0
    return encoded


def _scale_vectors(vectors: np.ndarray, field: FieldSpec) -> np.ndarray:
    encoded = np.empty(vectors.shape, np.float16)
    # In pieces: a catalogue's vectors are large, and float16 is all that stays.
    for start in range(0, len(vectors), _PIECE):
        piece = np.array(vectors[start : start + _PIECE], np.float32)
        piece[:, :-1] /= field.scale
        encoded[start : start + _PIECE] = piece
    return encoded
