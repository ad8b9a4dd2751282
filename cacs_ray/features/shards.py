"""The shards of a log: which are there, which are to be encoded, and encoding them.

Each task encodes files of its own and writes their shards itself; the driver gets
counts. A shard that was written before is used again while all it could not encode
is still unknown.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from cacs_ray.features.rows import RowEncoder, read_unknown, write_shard
from cacs_ray.features.windows import ShardRows, Windows, place, survey
from cacs_ray.pipelines import map_items

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shards:
    """Shards of all files of a log, in file order."""

    paths: tuple[Path, ...]
    rows: tuple[ShardRows, ...]

    @property
    def num_rows(self) -> dict[str, int]:
        """Rows by window."""
        names = self.rows[0].counts
        return {name: sum(rows.counts[name] for rows in self.rows) for name in names}

    @property
    def stated(self) -> dict[bytes, int]:
        """Number of each list that the log states, by first appearance."""
        texts = dict.fromkeys(text for rows in self.rows for text in rows.stated)
        return {text: number for number, text in enumerate(texts)}


def encode_files(
    files: Sequence[str], directory: Path, encoder: RowEncoder, windows: Windows
) -> Shards:
    """Encode the files of a log that have no shard yet, and survey all shards.

    Args:
        files: accepted impressions, at least one, in order, no file twice.
        directory: shards of this numbering of users, ads, creatives and values;
            those of other files go, the others stay.
        encoder: numbers as those of the shards that are there, or more.
        windows: which rows are wanted.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{file_digest(file)}.arrow" for file in files]
    _remove_others(directory, paths)
    is_kept = [path.is_file() and is_current(path, encoder) for path in paths]
    log.info(
        "%-11s %d of %d files as encoded before, %d encoded now",
        "features",
        sum(is_kept),
        len(files),
        len(files) - sum(is_kept),
    )
    shared = ray.put((encoder, windows))

    def encode(batch: pa.Table) -> Iterator[pa.Table]:
        own, wanted = ray.get(shared)
        for item in batch.to_pylist():
            shard = Path(item["shard"])
            if not item["is_kept"]:
                write_shard(shard, item["part"], own)
            yield _as_table(item["index"], survey(shard, wanted))

    items = [
        {"index": index, "part": part, "shard": str(path), "is_kept": kept}
        for index, (part, path, kept) in enumerate(
            zip(files, paths, is_kept, strict=True)
        )
    ]
    found = map_items(items, encode).take_all()
    rows = {row["index"]: _from_row(row) for row in found}
    return Shards(tuple(paths), tuple(rows[index] for index in range(len(files))))


def is_current(shard: Path, encoder: RowEncoder) -> bool:
    """Tell whether all that a shard's file held of unknown values is so still."""
    return not any(
        (encoder.known(str(domain)).find(values["value"].to_arrow()) >= 0).any()
        for (domain,), values in read_unknown(shard).group_by("domain")
    )


def place_all(
    shards: Shards, out: Path, windows: Windows, stated: Mapping[bytes, int]
) -> None:
    """Write the rows of all shards into the windows, one task a shard."""
    shared = ray.put((windows, stated))

    @ray.remote(num_cpus=1)
    def place_one(shard: Path, first_rows: dict[str, int], common: Any) -> None:  # noqa: ANN401 - a tuple that Ray unpacks
        place(shard, out, first_rows, *common)

    at = dict.fromkeys(windows.bounds, 0)
    tasks = []
    for path, rows in zip(shards.paths, shards.rows, strict=True):
        tasks.append(place_one.remote(path, dict(at), shared))
        at = {name: first + rows.counts[name] for name, first in at.items()}
    ray.get(tasks)


def file_digest(path: str) -> str:
    """Return the SHA-256 of a file as 64 hex characters."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_others(directory: Path, wanted: Sequence[Path]) -> None:
    stems = {path.stem for path in wanted}
    for path in directory.iterdir():
        if path.name.split(".")[0] not in stems or ".partial-" in path.name:
            path.unlink()


def _as_table(index: int, rows: ShardRows) -> pa.Table:
    return pa.table(
        {
            "index": [index],
            "counts": [json.dumps(dict(rows.counts))],
            "stated": pa.array([list(rows.stated)], pa.large_list(pa.binary())),
        }
    )


def _from_row(row: Mapping[str, Any]) -> ShardRows:
    return ShardRows(json.loads(row["counts"]), tuple(row["stated"]))
