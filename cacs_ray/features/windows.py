"""Shards -> windows: one raw file a column, in which each task writes its own rows.

How many rows of each shard fall into each window is known before anything is
written, so every task has a place of its own and nothing passes through the driver.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cacs_ray.features.catalogue import Versions
from cacs_ray.features.rows import GIVEN, REQUEST_HASH, SHOWN, read_shard
from cacs_ray.ids import one_array
from cacs_ray.schema import Column

REQUEST_ROW: Final = "request_row"
ROW_COLUMNS: Final[Mapping[str, tuple[str, int]]] = {
    "user_row": ("<i4", 0),
    "ad_row": ("<i4", 0),
    "list_row": ("<i4", 0),
    "shown_index": ("<i4", 0),
    Column.SLOT: ("<i4", 0),
    "label": ("<f4", 0),
    Column.WEIGHT: ("<f4", 0),
    Column.PROPENSITY: ("<f4", 0),
    Column.REQUEST_TS: ("<i8", 0),
    Column.BID_MICROS: ("<i8", 0),
    REQUEST_HASH: ("<u8", 0),
}
"""NumPy type and width (0 = one number) of the columns every window has."""
_LAYOUT: Final = "columns.json"
_MADE_HERE: Final = ("list_row", "shown_index")


@dataclass(frozen=True, slots=True)
class Windows:
    """What laying out needs; sent once to every task."""

    bounds: Mapping[str, tuple[int, int]]
    """Name -> [start, end) in microseconds; rows outside are left out."""
    versions: Versions
    columns: Mapping[str, tuple[str, int]]
    """Request features besides `ROW_COLUMNS`."""

    @property
    def all_columns(self) -> dict[str, tuple[str, int]]:
        """NumPy type and width of every column."""
        return {**ROW_COLUMNS, **self.columns}

    def masks(self, ts_us: np.ndarray) -> dict[str, np.ndarray]:
        """Say which rows are of which window: bool [N] by name."""
        return {
            name: (ts_us >= start) & (ts_us < end)
            for name, (start, end) in self.bounds.items()
        }


@dataclass(frozen=True, slots=True)
class ShardRows:
    """What one shard holds for the windows."""

    counts: Mapping[str, int]
    """Rows by window."""
    stated: tuple[bytes, ...]
    """Distinct lists that the log states and the catalogue does not say, in order of
    their first row; int32 catalogue rows as bytes."""


def survey(shard: Path, windows: Windows) -> ShardRows:
    """Count the rows of a shard by window and collect the lists it states."""
    counts = dict.fromkeys(windows.bounds, 0)
    stated: dict[bytes, None] = {}
    for table in read_shard(shard):
        ts = table[Column.REQUEST_TS].to_numpy()
        for name, mask in windows.masks(ts).items():
            counts[name] += int(mask.sum())
        _, lists = _stated_lists(table, _versions_of(table, windows.versions), windows)
        stated |= dict.fromkeys(_as_bytes(lists))
    return ShardRows(counts, tuple(stated))


def make_window(directory: Path, num_rows: int, windows: Windows) -> None:
    """Make the column files of one window, full size, to be written in parts."""
    directory.mkdir(parents=True)
    for name, (kind, width) in windows.all_columns.items():
        with (directory / f"{name}.bin").open("wb") as file:
            file.truncate(num_rows * max(1, width) * np.dtype(kind).itemsize)
    columns = {**windows.all_columns, REQUEST_ROW: ("<i4", 0)}
    del columns[REQUEST_HASH]
    text = json.dumps({"num_rows": num_rows, "columns": columns})
    (directory / _LAYOUT).write_text(text)


def place(
    shard: Path,
    out: Path,
    first_rows: Mapping[str, int],
    windows: Windows,
    stated: Mapping[bytes, int],
) -> None:
    """Write the rows of one shard where they belong.

    Args:
        shard: what to place.
        out: directory of the windows' directories, from `make_window`.
        first_rows: the shard's first row in each window.
        windows: for all shards the same.
        stated: number, after the catalogue's versions, of each stated list.
    """
    at = dict(first_rows)
    for table in read_shard(shard):
        columns = _columns(table, windows, stated)
        for name, mask in windows.masks(columns[Column.REQUEST_TS]).items():
            rows: slice | np.ndarray = (
                slice(None) if mask.all() else np.flatnonzero(mask)
            )
            _write_rows(out / name, columns, rows, at[name], windows.all_columns)
            at[name] += int(mask.sum())


def _columns(
    table: pa.Table, windows: Windows, stated: Mapping[bytes, int]
) -> dict[str, np.ndarray]:
    columns = {
        name: _as_array(table[name], width)
        for name, (_, width) in windows.all_columns.items()
        if name not in _MADE_HERE
    }
    shown = table[SHOWN].to_numpy()
    version = _versions_of(table, windows.versions)
    held = windows.versions.lists[version]
    index = np.argmax(held == shown[:, None], axis=1)
    rows, lists = _stated_lists(table, version, windows)
    if len(rows):
        base = len(windows.versions.lists)
        numbers = [base + stated[text] for text in _as_bytes(lists)]
        version[rows] = numbers
        index[rows] = np.argmax(lists == shown[rows, None], axis=1)
    return {**columns, "list_row": version, "shown_index": index}


def _write_rows(
    directory: Path,
    columns: Mapping[str, np.ndarray],
    rows: slice | np.ndarray,
    first: int,
    kinds: Mapping[str, tuple[str, int]],
) -> None:
    if not isinstance(rows, slice) and not len(rows):
        return
    for name, (kind, width) in kinds.items():
        with (directory / f"{name}.bin").open("r+b") as file:
            file.seek(first * max(1, width) * np.dtype(kind).itemsize)
            file.write(np.ascontiguousarray(columns[name][rows], kind).data)


def _versions_of(table: pa.Table, versions: Versions) -> np.ndarray:
    return versions.find(
        table["ad_row"].to_numpy(), table[Column.REQUEST_TS].to_numpy()
    )


def _stated_lists(
    table: pa.Table, version: np.ndarray, windows: Windows
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows whose list is not the catalogue's, and these lists, padded."""
    given = one_array(table[GIVEN])
    rows = np.flatnonzero(given.is_valid().to_numpy(zero_copy_only=False))
    if not len(rows):
        return rows, np.zeros((0, 1), np.int32)
    lengths = pc.list_value_length(given.take(pa.array(rows))).to_numpy()
    held = windows.versions.lists[version[rows]]
    lists = np.zeros((len(rows), max(held.shape[1], lengths.max())), np.int32)
    is_real = np.arange(lists.shape[1]) < lengths[:, None]
    lists[is_real] = pc.list_flatten(given).to_numpy()
    held = np.pad(held, ((0, 0), (0, lists.shape[1] - held.shape[1])))
    differs = (lists != held).any(axis=1)
    return rows[differs], lists[differs]


def _as_bytes(lists: np.ndarray) -> list[bytes]:
    return [row[row > 0].tobytes() for row in lists]


def _as_array(column: pa.ChunkedArray, width: int) -> np.ndarray:
    if not width:
        values: np.ndarray = column.to_numpy()
        return values
    flat = one_array(column).flatten().to_numpy(zero_copy_only=False)
    matrix: np.ndarray = flat.reshape(-1, width)
    return matrix


def number_requests(directory: Path) -> None:
    """Turn the hashes of a window's requests into numbers by first appearance."""
    hashes = np.fromfile(directory / f"{REQUEST_HASH}.bin", "<u8")
    # The rows of a request mostly follow each other: only their heads are sorted.
    is_head = np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]
    _, first, number = np.unique(
        hashes[is_head], return_index=True, return_inverse=True
    )
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    run = np.cumsum(is_head) - 1
    rank[number][run].astype("<i4").tofile(directory / f"{REQUEST_ROW}.bin")
    (directory / f"{REQUEST_HASH}.bin").unlink()


def write_lists(path: Path, versions: Versions, stated: Sequence[bytes]) -> None:
    """Write the catalogue's lists, and after them those that the log states."""
    more = [np.frombuffer(text, np.int32) for text in stated]
    held = versions.lists
    width = max([held.shape[1], *(len(rows) for rows in more)])
    lists = np.zeros((len(held) + len(more), width), np.int32)
    lists[: len(held), : held.shape[1]] = held
    for row, rows in enumerate(more, start=len(held)):
        lists[row, : len(rows)] = rows
    np.save(path, lists, allow_pickle=False)


def open_window(directory: Path) -> dict[str, np.ndarray]:
    """Open the columns of a window, memory-mapped."""
    layout = json.loads((directory / _LAYOUT).read_text())
    num_rows, columns = layout["num_rows"], {}
    for name, (kind, width) in layout["columns"].items():
        shape = (num_rows, width) if width else (num_rows,)
        path = directory / f"{name}.bin"
        columns[name] = (
            np.memmap(path, kind, "r", shape=shape)
            if num_rows
            else np.zeros(shape, kind)
        )
    return columns
