"""The encoded log on disk: raw arrays, memory-mapped when opened.

    spec.json vocabularies/ catalogue/      what was fitted
    entities/{users,ads,creatives}/         encoded once, row 0 blank
    lists.npy                               distinct candidate lists
    train/ validation/ test/                impressions as indices into the above

Rows keep the order of the files. A window is written column by column as raw
little-endian numbers, so that 50 million rows need no more memory than one block.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from cacs_ray.features.batch import EncodedLog, FeatureArrays
from cacs_ray.features.catalogue import Catalogue
from cacs_ray.features.encode import ContentEncoder, encode_rows, with_blank_row
from cacs_ray.features.kept import (
    ENTITY_SIDES,
    FittedFeatures,
    read_catalogue,
    read_fitted,
    write_fitted,
)
from cacs_ray.features.vocabulary import stable_hash
from cacs_ray.schema import Column, Side

_ROW_COLUMNS: Mapping[str, str] = {
    "user_row": "<i4",
    "ad_row": "<i4",
    "list_row": "<i4",
    "shown_index": "<i4",
    "slot": "<i4",
    "label": "<f4",
    "weight": "<f4",
    "propensity": "<f4",
    "request_ts": "<i8",
    "bid_micros": "<i8",
    "request_hash": "<u8",
}


@dataclass(frozen=True, slots=True)
class LogRows:
    """Encodes accepted impressions; sent once to every task."""

    fitted: FittedFeatures
    user_ids: pa.Array
    windows: Mapping[str, tuple[int, int]]
    content: ContentEncoder

    def encode(self, table: pa.Table) -> dict[str, np.ndarray]:
        """Return the row columns and request features of some impressions.

        A list given in the log that differs from what the catalogue says was live
        comes back in `explicit` (JSON of catalogue rows) with list_row -1.
        """
        catalogue = self.fitted.catalogue
        ts = table[Column.REQUEST_TS].cast(pa.int64()).to_numpy()
        ads = _rows_of(table[Column.AD_ID], pa.array(catalogue.ad_ids[1:]))
        shown = _rows_of(
            table[Column.CREATIVE_ID], pa.array(catalogue.creative_ids[1:])
        )
        version = catalogue.version(ads, ts)
        explicit = self._explicit_lists(table, version)
        lists = catalogue.version_lists[version]
        request_ids = pl.Series(table[Column.REQUEST_ID]).to_list()
        return {
            "user_row": _rows_of(table[Column.USER_ID], self.user_ids),
            "ad_row": ads,
            "list_row": np.where(explicit == "", version, -1),
            "shown_index": np.argmax(lists == shown[:, None], axis=1),
            "slot": table[Column.SLOT].to_numpy(),
            "label": table[Column.IS_CLICKED].to_numpy().astype(np.float32),
            "weight": _numbers(table[Column.WEIGHT], 1.0),
            "propensity": _numbers(table[Column.PROPENSITY], np.nan),
            "request_ts": ts,
            "bid_micros": _numbers(table[Column.BID_MICROS], 0).astype(np.int64),
            "request_hash": np.array([stable_hash(r) for r in request_ids], np.uint64),
            "explicit": explicit,
            "shown": shown,
            "window": self._window(ts),
            **encode_rows(
                table,
                self.fitted.spec,
                self.fitted.vocabularies,
                "request",
                content=self.content,
            ),
        }

    def _explicit_lists(self, table: pa.Table, version: np.ndarray) -> np.ndarray:
        """Return "" where the catalogue holds, else the given list as JSON."""
        given = table[Column.CANDIDATE_CREATIVE_IDS]
        explicit = np.full(len(table), "", dtype=object)
        if given.null_count == len(given):
            return explicit
        known = np.flatnonzero(given.is_valid().to_numpy())
        catalogue = self.fitted.catalogue
        for row, ids in zip(known, given.take(known).to_pylist(), strict=True):
            # As a set in catalogue order: the order of a log has no meaning.
            wanted = np.unique(catalogue.creative_row(ids))
            held = catalogue.version_lists[version[row]]
            if not np.array_equal(wanted, held[held > 0]):
                explicit[row] = json.dumps(wanted.tolist())
        return explicit

    def _window(self, ts: np.ndarray) -> np.ndarray:
        names = np.full(len(ts), "", dtype=object)
        for name, (start, end) in self.windows.items():
            names[(ts >= start) & (ts < end)] = name
        return names


def _rows_of(values: pa.ChunkedArray, known: pa.Array) -> np.ndarray:
    found = pc.index_in(values.cast(pa.string()), value_set=known.cast(pa.string()))
    return pc.add(found, 1).fill_null(0).to_numpy().astype(np.int32)


def _numbers(column: pa.ChunkedArray, missing: float) -> np.ndarray:
    return column.cast(pa.float64()).fill_null(missing).to_numpy()


def write_store(
    out: Path,
    fitted: FittedFeatures,
    entities: Mapping[Side, pa.Table],
    files: Sequence[str],
    windows: Mapping[str, tuple[int, int]],
    content: ContentEncoder,
) -> dict[str, int]:
    """Encode entities and impressions into a directory (which must exist).

    Args:
        out: where to write; make it visible only when this has returned.
        fitted: what `fit_features` left.
        entities: creatives, ads and users.
        files: accepted impressions in order, no file twice.
        windows: name -> [start, end) in microseconds; other rows are left out.
        content: encodes texts and images.

    Returns:
        Rows written by window.
    """
    write_fitted(out, fitted)
    for name, side in ENTITY_SIDES.items():
        encoded = encode_rows(
            entities[side], fitted.spec, fitted.vocabularies, side, content=content
        )
        _write_arrays(
            out / "entities" / name, with_blank_row(encoded, fitted.spec, side)
        )
    user_ids = entities["user"][Column.USER_ID].combine_chunks()
    encoder = LogRows(fitted, user_ids, windows, content)
    request_columns = _request_columns(fitted)
    extra_lists: dict[str, int] = {}
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(_Window(out / name, request_columns))
            for name in windows
        }
        for block in _encoded_blocks(files, encoder):
            _place_explicit_lists(block, extra_lists, fitted.catalogue)
            for name, writer in writers.items():
                writer.append(block, np.flatnonzero(block["window"] == name))
    _write_lists(out, fitted.catalogue, list(extra_lists))
    return {name: writer.num_rows for name, writer in writers.items()}


def _encoded_blocks(
    files: Sequence[str], encoder: LogRows
) -> Iterator[dict[str, np.ndarray]]:
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    shared = ray.put(encoder)

    def encode_files(batch: Any) -> Iterator[Any]:  # noqa: ANN401 - Ray's batches
        rows: LogRows = ray.get(shared)
        for path in batch["path"]:
            with pq.ParquetFile(path) as file:
                for records in file.iter_batches(131_072):
                    yield rows.encode(pa.Table.from_batches([records]))

    blocks = ray.data.from_items(
        [{"path": path} for path in files], override_num_blocks=len(files)
    ).map_batches(encode_files, batch_format="numpy", batch_size=None)
    for block in blocks.iter_batches(batch_format="numpy", batch_size=None):
        assert isinstance(block, dict)
        yield block


def _place_explicit_lists(
    block: dict[str, np.ndarray], known: dict[str, int], catalogue: Catalogue
) -> None:
    """Give lists that the log states a row after the catalogue's versions."""
    stated = np.flatnonzero(block["list_row"] < 0)
    if len(stated) == 0:
        return
    base = len(catalogue.version_lists)
    # Blocks come from shared memory, which is read-only.
    block["list_row"] = block["list_row"].copy()
    block["shown_index"] = block["shown_index"].copy()
    for row in stated:
        text = str(block["explicit"][row])
        block["list_row"][row] = base + known.setdefault(text, len(known))
        block["shown_index"][row] = json.loads(text).index(int(block["shown"][row]))


def _write_lists(out: Path, catalogue: Catalogue, extra: Sequence[str]) -> None:
    stated = [json.loads(text) for text in extra]
    held = catalogue.version_lists
    width = max([held.shape[1], *(len(rows) for rows in stated)])
    lists = np.zeros((len(held) + len(stated), width), np.int32)
    lists[: len(held), : held.shape[1]] = held
    for row, rows in enumerate(stated, start=len(held)):
        lists[row, : len(rows)] = rows
    np.save(out / "lists.npy", lists, allow_pickle=False)


def _request_columns(fitted: FittedFeatures) -> dict[str, tuple[str, int]]:
    kinds = {"index": "<i4", "index_list": "<i4", "number": "<f4", "vector": "<f2"}
    return {
        field.key: (kinds[field.encoding], field.width)
        for field in fitted.spec.of("request")
    }


class _Window:
    """Appends rows of one window to raw files, one a column."""

    def __init__(
        self, directory: Path, requests: Mapping[str, tuple[str, int]]
    ) -> None:
        self.columns = {name: (kind, 1) for name, kind in _ROW_COLUMNS.items()}
        self.columns.update(requests)
        self.directory = directory
        self.num_rows = 0

    def __enter__(self) -> "_Window":
        self.directory.mkdir(parents=True)
        self._files = {
            name: (self.directory / f"{name}.bin").open("wb") for name in self.columns
        }
        return self

    def append(self, block: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
        for name, (kind, _) in self.columns.items():
            self._files[name].write(
                np.ascontiguousarray(block[name][rows], kind).tobytes()
            )
        self.num_rows += len(rows)

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        text = json.dumps({"num_rows": self.num_rows, "columns": self.columns})
        (self.directory / "columns.json").write_text(text)


def _write_arrays(directory: Path, arrays: FeatureArrays) -> None:
    directory.mkdir(parents=True)
    for key, array in arrays.items():
        np.save(directory / f"{key}.npy", array, allow_pickle=False)


def _open_arrays(directory: Path) -> dict[str, np.ndarray]:
    return {
        path.stem: np.load(path, mmap_mode="r", allow_pickle=False)
        for path in sorted(directory.glob("*.npy"))
    }


def _open_columns(directory: Path) -> dict[str, np.ndarray]:
    layout = json.loads((directory / "columns.json").read_text())
    num_rows = layout["num_rows"]
    columns = {}
    for name, (kind, width) in layout["columns"].items():
        shape = (num_rows,) if width == 1 else (num_rows, width)
        path = directory / f"{name}.bin"
        columns[name] = (
            np.memmap(path, kind, "r", shape=shape)
            if num_rows
            else np.zeros(shape, kind)
        )
    return columns


def open_encoded(directory: str | Path, window: str) -> EncodedLog:
    """Open one window of an encoded log; nothing is read before it is used.

    Args:
        directory: what `write_store` wrote.
        window: `train`, `validation` or `test`.
    """
    root = Path(directory)
    entities = {name: _open_arrays(root / "entities" / name) for name in ENTITY_SIDES}
    catalogue = read_catalogue(root / "catalogue")
    columns = _open_columns(root / window)
    request_keys = [key for key in columns if key not in _ROW_COLUMNS]
    hashes = columns.pop("request_hash")
    _, request_row = np.unique(hashes, return_inverse=True)
    return EncodedLog(
        users=entities["users"],
        ads=entities["ads"],
        creatives=entities["creatives"],
        creative_ad_row=catalogue.creative_ad_row,
        requests={key: columns.pop(key) for key in request_keys},
        lists=np.load(root / "lists.npy", allow_pickle=False),
        request_row=request_row.astype(np.int32),
        **columns,
    )


def open_fitted(directory: str | Path) -> FittedFeatures:
    """Open the spec, vocabularies and catalogue of an encoded log."""
    return read_fitted(Path(directory))
