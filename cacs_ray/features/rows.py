"""Accepted impressions -> shards: one file of numbers for each file of the log.

A shard holds what never changes when the log grows: rows of users, ads and creatives,
encoded request features, the log's own numbers. Which window a row belongs to, and
which list of its catalogue it was chosen from, is decided when windows are laid out.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cacs_ray.features.encode import ContentEncoder, encode_rows
from cacs_ray.features.spec import FeatureSpec
from cacs_ray.features.vocabulary import Vocabulary
from cacs_ray.ids import IdIndex, hash_texts, one_array
from cacs_ray.schema import Column, Side

SHOWN: Final = "shown"
GIVEN: Final = "given"
REQUEST_HASH: Final = "request_hash"
REQUEST_KINDS: Final[Mapping[str, str]] = {
    "index": "<i4",
    "index_list": "<i4",
    "number": "<f4",
    "vector": "<f2",
}
"""NumPy type of an encoded request field by its encoding."""
_BATCH_ROWS: Final = 131_072
_ENTITIES: Final[Mapping[Side, str]] = {
    "user": Column.USER_ID,
    "ad": Column.AD_ID,
    "creative": Column.CREATIVE_ID,
}


@dataclass(frozen=True, slots=True)
class RowEncoder:
    """Encodes accepted impressions; sent once to every task.

    `entities` are the ids of each side; the blank row 0 comes before them.
    """

    spec: FeatureSpec
    vocabularies: Mapping[str, Vocabulary]
    entities: Mapping[Side, IdIndex]
    content: ContentEncoder

    @property
    def request_columns(self) -> dict[str, tuple[str, int]]:
        """NumPy type and width of each request feature; width 0 = one number."""
        return {
            field.key: (
                REQUEST_KINDS[field.encoding],
                0 if field.encoding == "index" else field.width,
            )
            for field in self.spec.of("request")
        }

    def encode(self, table: pa.Table) -> pa.Table:
        """Return the shard's columns of some impressions.

        `given` is the list that the log states, as a set in catalogue order (the
        order of a log has no meaning), null where it states none.
        """
        rows = {side: self._rows(table, side) for side in _ENTITIES}
        columns = {
            "user_row": rows["user"],
            "ad_row": rows["ad"],
            SHOWN: rows["creative"],
            GIVEN: self._given(table[Column.CANDIDATE_CREATIVE_IDS]),
            Column.SLOT: one_array(table[Column.SLOT]),
            "label": table[Column.IS_CLICKED].to_numpy().astype(np.float32),
            Column.WEIGHT: _numbers(table[Column.WEIGHT], 1.0).astype(np.float32),
            Column.PROPENSITY: _numbers(table[Column.PROPENSITY], np.nan).astype(
                np.float32
            ),
            Column.REQUEST_TS: one_array(table[Column.REQUEST_TS].cast(pa.int64())),
            Column.BID_MICROS: one_array(
                table[Column.BID_MICROS].cast(pa.int64())
            ).fill_null(0),
            REQUEST_HASH: hash_texts(table[Column.REQUEST_ID].cast(pa.string())),
        }
        encoded = encode_rows(
            table, self.spec, self.vocabularies, "request", content=self.content
        )
        for key, (kind, width) in self.request_columns.items():
            columns[key] = _as_column(encoded[key].astype(kind), width)
        return pa.table(columns)

    def _rows(self, table: pa.Table, side: Side) -> np.ndarray:
        found = self.entities[side].find(table[_ENTITIES[side]])
        rows: np.ndarray = (found + 1).astype(np.int32)
        return rows

    def _given(self, lists: pa.ChunkedArray) -> pa.Array:
        if lists.null_count == len(lists):
            return pa.nulls(len(lists), pa.list_(pa.int32()))
        array = one_array(lists)
        parent = pc.list_parent_indices(array).to_numpy()
        row = self.entities["creative"].find(pc.list_flatten(array)) + 1
        order = np.lexsort((row, parent))
        parent, row = parent[order], row[order]
        is_first = np.append(True, (parent[1:] != parent[:-1]) | (row[1:] != row[:-1]))[
            : len(row)
        ]
        is_kept = is_first & (row > 0)
        lengths = np.bincount(parent[is_kept], minlength=len(array))
        ends = np.append(0, np.cumsum(lengths)).astype(np.int32)
        return pa.ListArray.from_arrays(
            pa.array(ends),
            pa.array(row[is_kept].astype(np.int32)),
            mask=array.is_null(),
        )

    def known(self, domain: str) -> IdIndex:
        """Return the ids of a side, or the values of a vocabulary by its name."""
        for side, ids in self.entities.items():
            if domain == side:
                return ids
        return IdIndex(self.vocabularies[domain].values)

    def unknown(self, table: pa.Table) -> pl.DataFrame:
        """Return the distinct values that have no index: columns domain, value.

        The domain is a side, for ids of entities, or the name of a vocabulary.
        """
        parts = [
            _distinct(side, table[name], self.entities[side])
            for side, name in _ENTITIES.items()
        ]
        for field in self.spec.of("request"):
            if not field.vocabulary or field.column not in table.column_names:
                continue
            column = one_array(table[field.column])
            flat = pc.list_flatten(column) if field.kind == "category_list" else column
            known = self.known(field.vocabulary)
            parts.append(_distinct(field.vocabulary, flat, known))
        return pl.concat(parts)


def _distinct(
    domain: str, values: pa.Array | pa.ChunkedArray, known: IdIndex
) -> pl.DataFrame:
    distinct = pc.unique(one_array(values)).cast(pa.string()).drop_null()
    new = distinct.filter(pa.array(known.find(distinct) < 0))
    texts = pl.Series("value", values=pl.from_arrow(new), dtype=pl.String)
    return pl.DataFrame({"value": texts}).select(
        pl.lit(domain, pl.String).alias("domain"), "value"
    )


def _numbers(column: pa.ChunkedArray, missing: float) -> np.ndarray:
    numbers: np.ndarray = column.cast(pa.float64()).fill_null(missing).to_numpy()
    return numbers


def _as_column(values: np.ndarray, width: int) -> pa.Array:
    if not width:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)


def write_shard(path: Path, part: str, encoder: RowEncoder) -> None:
    """Encode one file of accepted impressions; the shard appears whole.

    Args:
        path: the shard; what it could not encode stands beside it, see
            `read_unknown`.
        part: Parquet file of accepted impressions.
        encoder: for all files of the log the same.
    """
    aside = path.with_name(f"{path.name}.partial-{os.getpid()}")
    unknown = []
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    writer: pa.ipc.RecordBatchFileWriter | None = None
    with pq.ParquetFile(part) as file, aside.open("wb") as sink:
        for records in file.iter_batches(_BATCH_ROWS, use_threads=False):
            table = pa.Table.from_batches([records])
            encoded = encoder.encode(table)
            unknown.append(encoder.unknown(table))
            if writer is None:
                writer = pa.ipc.new_file(sink, encoded.schema, options=options)
            writer.write_table(encoded)
        if writer is not None:
            writer.close()
        sink.flush()
        os.fsync(sink.fileno())
    values = pl.concat(unknown).unique().sort("domain", "value")
    values.write_parquet(_unknown_path(path))
    aside.replace(path)


def read_shard(path: Path) -> Iterator[pa.Table]:
    """Yield the rows of a shard in file order, at most 131,072 at once."""
    with pa.OSFile(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for index in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(index)])


def read_unknown(path: Path) -> pl.DataFrame:
    """Return the values of a shard's file that had no index: domain, value."""
    return pl.read_parquet(_unknown_path(path))


def _unknown_path(path: Path) -> Path:
    return path.with_suffix(".unknown.parquet")
