"""One file of the log through the rules -> its accepted part and its rejects.

Runs in Ray tasks. A part may be kept with what became of its file, so that the same
file, checked against the same entities, is not read again.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from cacs_ray.data.casting import cast_table
from cacs_ray.data.declaration import LayoutColumn, table_schema
from cacs_ray.data.duplicates import key_hashes
from cacs_ray.data.entities import check_schema, vector_sizes
from cacs_ray.data.files import atomic_directory, read_json, write_json
from cacs_ray.data.reading import TableFile, as_text, file_schema, read_batches
from cacs_ray.data.rules import (
    IMPRESSION_RULES,
    ImpressionRows,
    KnownEntities,
    first_broken,
    impression_masks,
    rejected_rows,
)
from cacs_ray.data.summary import LogSummary, RowCounts
from cacs_ray.errors import InputError
from cacs_ray.schema import Column

IMPRESSIONS: Final = "impressions"
_ACCEPTED: Final = "accepted.parquet"
_REJECTED: Final = "rejected.parquet"
_HASHES: Final = "hashes.npy"
_OUTCOME: Final = "outcome.json"
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class FileReport:
    """What became of one file."""

    index: int
    path: str
    error: str | None
    summary: LogSummary
    hashes: np.ndarray
    kept_as: str = ""
    """Name of the directory that keeps its part; empty when nothing is kept."""
    is_reused: bool = False


@dataclass(frozen=True, slots=True)
class FileTask:
    """All that a worker needs beside the file itself."""

    layout: tuple[LayoutColumn, ...]
    known: KnownEntities
    validated: Path
    rejects: Path
    kept: Path | None = None
    """Directory of kept parts, of files checked against these entities or fewer."""
    entities: str = ""
    """Digest of the entities."""

    def accepted_part(self, index: int) -> Path:
        """Where the accepted rows of a file go."""
        return self.validated / IMPRESSIONS / f"part-{index:05d}.parquet"

    def rejected_part(self, index: int) -> Path:
        """Where its rejected rows go."""
        return self.rejects / f"{IMPRESSIONS}-{index:05d}.parquet"


@dataclass(frozen=True, slots=True)
class _Outcome:
    summary: LogSummary
    hashes: np.ndarray = field(default_factory=lambda: np.array([], np.uint64))
    kept_as: str = ""
    is_reused: bool = False


def as_is(items: pa.Table) -> Iterator[pa.Table]:
    """Give items back, in a worker that has imported this module for it."""
    yield items


def check_items(items: pa.Table, task: Any) -> Iterator[pa.Table]:  # noqa: ANN401
    """Ray Data: rows that name files -> one row a file with what became of it."""
    own: FileTask = ray.get(task)
    for item in items.to_pylist():
        file = TableFile(item["location"], item["path"])
        duplicates = np.frombuffer(item["duplicates"], dtype=np.int64)
        error, outcome = None, _Outcome(LogSummary())
        try:
            check = _check_anew if own.kept is None else _check_or_reuse
            outcome = check(own, file, item["index"], duplicates)
        except InputError as unreadable:
            error = str(unreadable)
        yield pa.table(
            {
                "index": [item["index"]],
                "error": pa.array([error], pa.string()),
                "summary": [outcome.summary.model_dump_json()],
                "hashes": pa.array([outcome.hashes.tobytes()], pa.large_binary()),
                "kept_as": [outcome.kept_as],
                "is_reused": [outcome.is_reused],
            }
        )


def _check_or_reuse(
    task: FileTask, file: TableFile, index: int, duplicates: np.ndarray
) -> _Outcome:
    assert task.kept is not None
    name = _kept_name(task, file, duplicates)
    directory = task.kept / name
    is_reused = _is_kept(directory, task.entities)
    if not is_reused:
        with atomic_directory(directory) as partial:
            outcome = _check_file(
                task, file, duplicates, (partial / _ACCEPTED, partial / _REJECTED)
            )
            np.save(partial / _HASHES, outcome.hashes, allow_pickle=False)
            summary = outcome.summary.model_dump(mode="json")
            kept = {"entities": task.entities, "summary": summary}
            write_json(partial / _OUTCOME, kept)
    _link(directory / _ACCEPTED, task.accepted_part(index))
    _link(directory / _REJECTED, task.rejected_part(index))
    return _Outcome(
        LogSummary.model_validate(read_json(directory / _OUTCOME)["summary"]),
        np.load(directory / _HASHES, allow_pickle=False),
        name,
        is_reused,
    )


def _check_anew(
    task: FileTask, file: TableFile, index: int, duplicates: np.ndarray
) -> _Outcome:
    parts = task.accepted_part(index), task.rejected_part(index)
    return _check_file(task, file, duplicates, parts)


def _kept_name(task: FileTask, file: TableFile, duplicates: np.ndarray) -> str:
    """Digest of all that decides a part, but for the entities."""
    digest = hashlib.sha256(repr((file.path, task.layout)).encode())
    digest.update(duplicates.tobytes())
    try:
        with file.open() as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise InputError(
            f"cannot be read: {error}", source=file.path, rule="readable"
        ) from error
    return digest.hexdigest()[:32]


def _is_kept(directory: Path, entities: str) -> bool:
    """Tell whether a part would come out the same again.

    Entities only ever join those known before, so a row that was accepted stays so,
    and only a row that named an unknown one may be judged otherwise.
    """
    if not (directory / _OUTCOME).is_file():
        return False
    kept = read_json(directory / _OUTCOME)
    by_rule = kept["summary"]["rows"]["rejected_by_rule"]
    is_open = any(rule in by_rule for rule in ("unknown_ad", "unknown_creative"))
    return kept["entities"] == entities or not is_open


def _link(source: Path, target: Path) -> None:
    """Make a kept file appear elsewhere, without a copy where that can be."""
    target.unlink(missing_ok=True)
    if not source.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _check_file(
    task: FileTask, file: TableFile, duplicates: np.ndarray, parts: tuple[Path, Path]
) -> _Outcome:
    """Stream one file through the rules into its accepted and its rejected part."""
    schema = file_schema(file)
    check_schema(task.layout, schema, source=file.path, table=IMPRESSIONS)
    summaries, hashes, start = [], [], 0
    with _Part(parts[0]) as accepted_part, _Part(parts[1]) as rejected_part:
        for raw in read_batches(file):
            table, broken = _judge(task, raw, duplicates - start)
            hashes.append(key_hashes(table))
            rejected = rejected_rows(
                raw, broken, IMPRESSION_RULES, source=file.path, first=start
            )
            accepted = table.filter(pa.array(broken < 0)) if len(rejected) else table
            accepted_part.write(
                accepted.cast(table_schema(task.layout, accepted.schema))
            )
            rejected_part.write(
                rejected if file.format == "parquet" else as_text(rejected)
            )
            counts = RowCounts.of(accepted=accepted.num_rows, rejected=rejected)
            summaries.append(LogSummary.of(accepted, counts))
            start += raw.num_rows
    none = np.array([], dtype=np.uint64)
    return _Outcome(LogSummary.merged(summaries), np.concatenate([none, *hashes]))


def _judge(
    task: FileTask, raw: pa.Table, duplicates: np.ndarray
) -> tuple[pa.Table, np.ndarray]:
    """Cast a batch and say which rule each row breaks first, -1 = none."""
    cast = cast_table(raw, task.layout)
    rows = ImpressionRows.of(cast.table, task.known)
    is_duplicate = np.zeros(raw.num_rows, dtype=bool)
    is_duplicate[duplicates[(duplicates >= 0) & (duplicates < raw.num_rows)]] = True
    masks = impression_masks(rows, vector_sizes(task.layout)) | {
        "missing_required": cast.is_missing,
        "wrong_type": cast.is_wrong_type,
        "duplicate_impression": is_duplicate,
    }
    return cast.table, first_broken(masks, IMPRESSION_RULES, raw.num_rows)


class _Part:
    """A Parquet file that exists only if a row was written; an old one goes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "_Part":
        self._path.unlink(missing_ok=True)
        return self

    def write(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._path,
                table.schema,
                compression="zstd",
                use_dictionary=_repeated_columns(table.schema),
            )
        self._writer.write_table(table.cast(self._writer.schema))

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


def _repeated_columns(schema: pa.Schema) -> list[str]:
    """Name the columns that a dictionary makes smaller: all but the request's id."""
    return [
        f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
        for field in schema
        if field.name != Column.REQUEST_ID
    ]
