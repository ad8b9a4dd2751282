"""The impression log: every row checked, accepted and rejected ones written apart.

Ray Data spreads the files over the cluster; each file is streamed batch by batch
into one part, so memory stays bounded whatever the log's size. Only one pass is
made over a log without duplicates.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from cacs_ray.data.casting import cast_table
from cacs_ray.data.dataset import Dataset
from cacs_ray.data.declaration import LayoutColumn, table_schema
from cacs_ray.data.duplicates import find_duplicates, key_hashes
from cacs_ray.data.entities import Entities, check_schema, read_entities, vector_sizes
from cacs_ray.data.files import atomic_directory, read_json, write_json, write_table
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

log = logging.getLogger(__name__)

VALIDATED: Final = "validated"
REJECTS: Final = "rejects"
_IMPRESSIONS: Final = "impressions"
_SUMMARY: Final = "summary.json"
_MOST_BLOCKS: Final = 256
_MOST_NAMED_FILES: Final = 10
_ENTITY_TABLES: Final = ("creatives", "ads", "users")


@dataclass(frozen=True)
class ValidatedLog:
    """A log in which every row keeps the contract, on disk."""

    directory: Path
    """The `validated` directory."""

    @classmethod
    def open(cls, directory: str | Path) -> "ValidatedLog":
        """Open what `validate_log` wrote, by its `out` or by `out/validated`."""
        path = Path(directory)
        inner = path / VALIDATED
        return cls(inner if inner.is_dir() else path)

    @cached_property
    def impression_files(self) -> tuple[Path, ...]:
        """The Parquet parts, in file order; each has at least one row."""
        return tuple(sorted((self.directory / _IMPRESSIONS).glob("part-*.parquet")))

    @cached_property
    def summary(self) -> LogSummary:
        """The counts; `InputError` when the directory is not a validated log."""
        return LogSummary.model_validate(read_json(self.directory / _SUMMARY))

    @cached_property
    def creatives(self) -> pa.Table:
        """Accepted creatives in contract types, with declared columns."""
        return self._entities("creatives")

    @cached_property
    def ads(self) -> pa.Table:
        """Accepted ads in contract types, with declared columns."""
        return self._entities("ads")

    @cached_property
    def users(self) -> pa.Table:
        """Accepted users; of a dataset without users table, those of the log
        when `user_id` is declared, else none.
        """  # noqa: D205 - one sentence
        return self._entities("users")

    def _entities(self, name: str) -> pa.Table:
        path = self.directory / f"{name}.parquet"
        try:
            return pq.read_table(path, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                "is not a validated table", source=str(path), rule="readable"
            ) from error


def validate_log(
    dataset: Dataset, out: Path, *, max_reject_share: float = 0.05
) -> ValidatedLog:
    """Check every row of a log; nothing is lost and nothing is silent.

    Writes `out/validated/` (accepted impressions as one Parquet part per input
    file, in file order; the entity tables; `summary.json`) and `out/rejects/`
    (rejected rows as they were read, with rule, file and row number; the counts).
    Both appear whole. A log that cannot be judged, because files are unreadable or
    there are no rows, leaves `out` as it was; one that has too many rejects leaves
    its `rejects/`, to be looked at, and an old `validated/`.

    Args:
        dataset: from `read_dataset`.
        out: a directory that all Ray workers can write to.
        max_reject_share: in [0, 1]; a larger share of rejected impressions
            stops here, after the rejects and their counts were written.

    Raises:
        InputError: files cannot be read (all are listed), the log is empty, or
            too many rows are rejected.
    """
    files = dataset.files(_IMPRESSIONS)
    with atomic_directory(out / VALIDATED) as validated:
        with atomic_directory(out / REJECTS) as rejects:
            entities = read_entities(dataset, rejects)
            reports = _check_files(dataset, files, entities, validated, rejects)
            _refuse_unreadable(reports, dataset.tables[_IMPRESSIONS])
            summary = _merged(reports, entities)
            _refuse_empty(summary, dataset.tables[_IMPRESSIONS])
            write_json(rejects / _SUMMARY, _reject_counts(summary))
        _refuse_bad_log(summary, max_reject_share, out / REJECTS)
        users = _users(dataset, entities, validated)
        for name in _ENTITY_TABLES:
            table = users if name == "users" else getattr(entities, name)
            write_table(validated / f"{name}.parquet", table)
        write_json(validated / _SUMMARY, summary.model_dump(mode="json"))
    return ValidatedLog.open(out)


@dataclass(frozen=True, slots=True)
class _FileReport:
    """What became of one file."""

    index: int
    path: str
    error: str | None
    summary: LogSummary
    hashes: np.ndarray


@dataclass(frozen=True, slots=True)
class _FileTask:
    """All that a worker needs beside the file itself."""

    layout: tuple[LayoutColumn, ...]
    known: KnownEntities
    validated: Path
    rejects: Path


def _check_files(
    dataset: Dataset,
    files: Sequence[TableFile],
    entities: Entities,
    validated: Path,
    rejects: Path,
) -> list[_FileReport]:
    """Check all files; those that hold duplicates a second time, to reject them."""
    layout = dataset.layout(_IMPRESSIONS)
    (validated / _IMPRESSIONS).mkdir()
    known = KnownEntities.of(entities.ads, entities.creatives)
    task = ray.put(_FileTask(layout, known, validated, rejects))
    reports = _run(task, files, {index: np.array([]) for index in range(len(files))})
    if not files or any(report.error for report in reports.values()):
        return list(reports.values())
    hashes = [reports[index].hashes for index in range(len(files))]
    duplicates = find_duplicates(files, hashes, layout)
    if duplicates:
        reports |= _run(task, files, duplicates)
    return [reports[index] for index in range(len(files))]


def _run(
    task: Any,  # noqa: ANN401 - a Ray reference
    files: Sequence[TableFile],
    duplicates: Mapping[int, np.ndarray],
) -> dict[int, _FileReport]:
    """Check the files that `duplicates` names, one Ray Data row a file."""
    if not duplicates:
        return {}
    items = [
        {
            "index": index,
            "location": files[index].location,
            "path": files[index].path,
            "duplicates": rows.astype(np.int64).tobytes(),
        }
        for index, rows in duplicates.items()
    ]
    blocks = min(len(items), _MOST_BLOCKS)
    rows = (
        ray.data.from_items(items, override_num_blocks=blocks)
        .map_batches(
            partial(_check_rows, task=task), batch_format="pyarrow", batch_size=None
        )
        .take_all()
    )
    reports = {
        row["index"]: _FileReport(
            index=row["index"],
            path=files[row["index"]].path,
            error=row["error"],
            summary=LogSummary.model_validate_json(row["summary"]),
            hashes=np.frombuffer(row["hashes"], dtype=np.uint64),
        )
        for row in rows
    }
    if set(reports) != set(duplicates):
        raise RuntimeError(f"{len(items)} files went in, {len(reports)} came back")
    return reports


def _check_rows(items: pa.Table, task: Any) -> Iterator[pa.Table]:  # noqa: ANN401
    """Ray Data: rows that name files -> one row a file with what became of it."""
    own: _FileTask = ray.get(task)
    for item in items.to_pylist():
        file = TableFile(item["location"], item["path"])
        duplicates = np.frombuffer(item["duplicates"], dtype=np.int64)
        error, summary, hashes = None, LogSummary(), np.array([], dtype=np.uint64)
        try:
            summary, hashes = _check_file(own, file, item["index"], duplicates)
        except InputError as unreadable:
            error = str(unreadable)
        yield pa.table(
            {
                "index": [item["index"]],
                "error": pa.array([error], pa.string()),
                "summary": [summary.model_dump_json()],
                "hashes": pa.array([hashes.tobytes()], pa.large_binary()),
            }
        )


def _check_file(
    task: _FileTask, file: TableFile, index: int, duplicates: np.ndarray
) -> tuple[LogSummary, np.ndarray]:
    """Stream one file through the rules into its two parts."""
    schema = file_schema(file)
    check_schema(task.layout, schema, source=file.path, table=_IMPRESSIONS)
    accepted_part = _Part(task.validated / _IMPRESSIONS / f"part-{index:05d}.parquet")
    rejected_part = _Part(task.rejects / f"{_IMPRESSIONS}-{index:05d}.parquet")
    summaries, hashes, start = [], [], 0
    with accepted_part, rejected_part:
        for raw in read_batches(file):
            table, broken = _judge(task, raw, duplicates - start)
            hashes.append(key_hashes(table))
            rejected = rejected_rows(
                raw, broken, IMPRESSION_RULES, source=file.path, first=start
            )
            accepted = table.filter(pa.array(broken < 0))
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
    return LogSummary.merged(summaries), np.concatenate([none, *hashes])


def _judge(
    task: _FileTask, raw: pa.Table, duplicates: np.ndarray
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
                self._path, table.schema, compression="zstd"
            )
        self._writer.write_table(table.cast(self._writer.schema))

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


def _merged(reports: Sequence[_FileReport], entities: Entities) -> LogSummary:
    summary = LogSummary.merged([report.summary for report in reports])
    rows = summary.rows
    if rows.accepted + rows.rejected != rows.read:
        raise RuntimeError(
            f"read {rows.read} rows, accepted {rows.accepted}, rejected {rows.rejected}"
        )
    return summary.model_copy(update={"entities": dict(entities.counts)})


def _reject_counts(summary: LogSummary) -> dict[str, Any]:
    tables = {_IMPRESSIONS: summary.rows, **summary.entities}
    return {name: rows.model_dump(mode="json") for name, rows in tables.items()}


def _refuse_unreadable(reports: Sequence[_FileReport], source: str) -> None:
    """List the files that cannot be read: the first in the error, the rest beside."""
    errors = [report.error for report in reports if report.error]
    if not errors:
        return
    named, others = errors[:_MOST_NAMED_FILES], errors[_MOST_NAMED_FILES:]
    for error in others:
        log.error("%s", error)
    more = f"; {len(others)} more are listed above" if others else ""
    raise InputError(
        f"{len(errors)} of {len(reports)} files refused: {'; '.join(named)}{more}",
        source=source,
        rule="readable",
    )


def _refuse_empty(summary: LogSummary, source: str) -> None:
    if not summary.rows.read:
        raise InputError("empty log: no rows", source=source, rule="empty_log")


def _refuse_bad_log(summary: LogSummary, max_share: float, rejects: Path) -> None:
    rows = summary.rows
    share = rows.rejected / rows.read
    if share > max_share or not rows.accepted:
        rule, count = max(rows.rejected_by_rule.items(), key=lambda item: item[1])
        of_entities = {
            name: counts.rejected_by_rule
            for name, counts in summary.entities.items()
            if counts.rejected
        }
        beside = f"; rejected entities: {of_entities}" if of_entities else ""
        raise InputError(
            f"{rows.rejected} of {rows.read} rows rejected ({share:.1%}, at most "
            f"{max_share:.1%} may be), most by {rule} ({count}){beside}; "
            f"see {rejects}",
            source=_IMPRESSIONS,
            rule="max_reject_share",
        )


def _users(dataset: Dataset, entities: Entities, validated: Path) -> pa.Table:
    """Return the users, taken from the log when only their ids are declared."""
    if "users" in dataset.tables or not dataset.fields("user"):
        return entities.users
    ids = (
        pl.scan_parquet(validated / _IMPRESSIONS / "part-*.parquet")
        .select(pl.col(Column.USER_ID).drop_nulls().unique().sort())
        .collect(engine="streaming")
        .to_arrow()
    )
    known = pc.cast(ids[Column.USER_ID], pa.string())
    return pa.table([known], schema=entities.users.schema)
