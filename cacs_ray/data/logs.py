"""The impression log: every row checked, accepted and rejected ones written apart.

Ray Data spreads the files over the cluster; each file is streamed batch by batch
into one part, so memory stays bounded whatever the log's size. Only one pass is
made over a log without duplicates.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from cacs_ray.data.dataset import Dataset
from cacs_ray.data.duplicates import find_duplicates
from cacs_ray.data.entities import Entities, read_entities
from cacs_ray.data.files import (
    atomic_directory,
    read_json,
    remove_empty,
    sha256_file,
    write_json,
    write_table,
)
from cacs_ray.data.parts import (
    IMPRESSIONS,
    FileReport,
    FileTask,
    as_is,
    check_items,
)
from cacs_ray.data.reading import TableFile
from cacs_ray.data.rules import KnownEntities
from cacs_ray.data.summary import LogSummary
from cacs_ray.errors import InputError
from cacs_ray.pipelines import map_items, wake
from cacs_ray.schema import Column

log = logging.getLogger(__name__)

VALIDATED: Final = "validated"
REJECTS: Final = "rejects"
_SUMMARY: Final = "summary.json"
_MOST_NAMED_FILES: Final = 10
_CREATIVES: Final = "creatives.parquet"
_ADS: Final = "ads.parquet"
_USERS: Final = "users.parquet"


@dataclass(frozen=True)
class ValidatedLog:
    """A log in which every row keeps the contract, on disk."""

    directory: Path
    """The `validated` directory."""
    held: Mapping[str, pa.Table] = field(
        default_factory=dict, repr=False, compare=False
    )
    """Entity tables by file name that need not be read again."""

    @classmethod
    def open(cls, directory: str | Path) -> "ValidatedLog":
        """Open what `validate_log` wrote, by its `out` or by `out/validated`."""
        path = Path(directory)
        inner = path / VALIDATED
        return cls(inner if inner.is_dir() else path)

    @cached_property
    def impression_files(self) -> tuple[Path, ...]:
        """The Parquet parts, in file order; each has at least one row."""
        return tuple(sorted((self.directory / IMPRESSIONS).glob("part-*.parquet")))

    @cached_property
    def summary(self) -> LogSummary:
        """The counts; `InputError` when the directory is not a validated log."""
        return LogSummary.model_validate(read_json(self.directory / _SUMMARY))

    @cached_property
    def creatives(self) -> pa.Table:
        """Accepted creatives in contract types, with declared columns."""
        return self._entities(_CREATIVES)

    @cached_property
    def ads(self) -> pa.Table:
        """Accepted ads in contract types, with declared columns."""
        return self._entities(_ADS)

    @cached_property
    def users(self) -> pa.Table:
        """Accepted users; of a dataset without users table, those of the log
        when `user_id` is declared, else none.
        """  # noqa: D205 - one sentence
        return self._entities(_USERS)

    def _entities(self, name: str) -> pa.Table:
        if name in self.held:
            return self.held[name]
        path = self.directory / name
        try:
            return pq.read_table(path, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                "is not a validated table", source=str(path), rule="readable"
            ) from error


def validate_log(
    dataset: Dataset,
    out: Path,
    *,
    max_reject_share: float = 0.05,
    kept: Path | None = None,
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
        kept: directory of parts that were checked before, in this or in a run that
            was broken off; files that have not changed since are taken from it.
            None keeps nothing.

    Raises:
        InputError: files cannot be read (all are listed), the log is empty, or
            too many rows are rejected.
    """
    files = dataset.files(IMPRESSIONS)
    with _unless_refused(kept), atomic_directory(out / VALIDATED) as validated:
        with atomic_directory(out / REJECTS) as rejects:
            with ThreadPoolExecutor(1) as beside:
                # What can be done while the other side works.
                woken = beside.submit(wake, len(files), as_is)
                entities = read_entities(dataset, rejects)
                woken.result()
                written = beside.submit(_write_entities, dataset, entities, validated)
                reports = _check_files(
                    dataset, files, entities, _Places(validated, rejects, kept)
                )
            written.result()
            _refuse_unreadable(reports, dataset.tables[IMPRESSIONS])
            summary = _merged(reports, entities)
            _refuse_empty(summary, dataset.tables[IMPRESSIONS])
            write_json(rejects / _SUMMARY, _reject_counts(summary))
        _refuse_bad_log(summary, max_reject_share, out / REJECTS)
        if _are_users_of_the_log(dataset):
            write_table(validated / _USERS, _users_of_log(entities, validated))
        write_json(validated / _SUMMARY, summary.model_dump(mode="json"))
    return ValidatedLog(out / VALIDATED, _held(dataset, entities))


@contextmanager
def _unless_refused(kept: Path | None) -> Iterator[None]:
    """Leave no kept parts where a log is refused that had none before."""
    missing = [path for path in kept.parents if not path.exists()] if kept else []
    is_new = kept is not None and not kept.exists()
    try:
        yield
    except InputError:
        if kept is not None and is_new:
            shutil.rmtree(kept, ignore_errors=True)
            remove_empty(missing)
        raise


@dataclass(frozen=True, slots=True)
class _Places:
    """Where parts go."""

    validated: Path
    rejects: Path
    kept: Path | None


def _check_files(
    dataset: Dataset,
    files: Sequence[TableFile],
    entities: Entities,
    places: _Places,
) -> list[FileReport]:
    """Check all files; those that hold duplicates a second time, to reject them."""
    layout = dataset.layout(IMPRESSIONS)
    (places.validated / IMPRESSIONS).mkdir()
    known = KnownEntities.of(entities.ads, entities.creatives)
    digest = _kept_entities(places.kept, entities) if places.kept else ""
    task = ray.put(
        FileTask(layout, known, places.validated, places.rejects, places.kept, digest)
    )
    reports = _run(task, files, {index: np.array([]) for index in range(len(files))})
    if not files or any(report.error for report in reports.values()):
        return list(reports.values())
    first = list(reports.values())
    hashes = [reports[index].hashes for index in range(len(files))]
    duplicates = find_duplicates(files, hashes, layout)
    if duplicates:
        reports |= _run(task, files, duplicates)
    if places.kept:
        _keep_only(places.kept, [*first, *reports.values()])
        _tell_reused([*reports.values()])
    return [reports[index] for index in range(len(files))]


def _tell_reused(reports: Sequence[FileReport]) -> None:
    num_reused = sum(report.is_reused for report in reports)
    log.info(
        "%-11s %d of %d files as checked before, %d checked now",
        "validate",
        num_reused,
        len(reports),
        len(reports) - num_reused,
    )


def _run(
    task: Any,  # noqa: ANN401 - a Ray reference
    files: Sequence[TableFile],
    duplicates: Mapping[int, np.ndarray],
) -> dict[int, FileReport]:
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
    rows = map_items(items, partial(check_items, task=task)).take_all()
    reports = {
        row["index"]: FileReport(
            index=row["index"],
            path=files[row["index"]].path,
            error=row["error"],
            summary=LogSummary.model_validate_json(row["summary"]),
            hashes=np.frombuffer(row["hashes"], dtype=np.uint64),
            kept_as=row["kept_as"],
            is_reused=row["is_reused"],
        )
        for row in rows
    }
    if set(reports) != set(duplicates):
        raise RuntimeError(f"{len(items)} files went in, {len(reports)} came back")
    return reports


def _kept_entities(kept: Path, entities: Entities) -> str:
    """Keep what impressions may refer to; what was judged by anything else goes.

    Returns:
        Its digest.
    """
    columns = [
        Column.CREATIVE_ID,
        Column.AD_ID,
        Column.LIVE_FROM_TS,
        Column.LIVE_UNTIL_TS,
    ]
    tables = entities.creatives, entities.ads
    known = pl.concat(
        [
            pl.DataFrame(table.select([c for c in columns if c in table.column_names]))
            for table in tables
        ],
        how="diagonal",
    )
    path = kept / "entities.parquet"
    if path.is_file():
        before = pl.read_parquet(path)
        is_more = (
            before.columns == known.columns
            and before.join(
                known, on=known.columns, how="anti", nulls_equal=True
            ).is_empty()
        )
        if not is_more:
            shutil.rmtree(kept)
    write_table(path, known.to_arrow())
    return sha256_file(path)


def _keep_only(kept: Path, reports: Sequence[FileReport]) -> None:
    """Remove the parts of files that the log does not hold any more."""
    wanted = {report.kept_as for report in reports}
    for path in kept.iterdir():
        if path.is_dir() and path.name not in wanted:
            shutil.rmtree(path)


def _merged(reports: Sequence[FileReport], entities: Entities) -> LogSummary:
    summary = LogSummary.merged([report.summary for report in reports])
    rows = summary.rows
    if rows.accepted + rows.rejected != rows.read:
        raise RuntimeError(
            f"read {rows.read} rows, accepted {rows.accepted}, rejected {rows.rejected}"
        )
    return summary.model_copy(update={"entities": dict(entities.counts)})


def _reject_counts(summary: LogSummary) -> dict[str, Any]:
    tables = {IMPRESSIONS: summary.rows, **summary.entities}
    return {name: rows.model_dump(mode="json") for name, rows in tables.items()}


def _refuse_unreadable(reports: Sequence[FileReport], source: str) -> None:
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
            source=IMPRESSIONS,
            rule="max_reject_share",
        )


def _write_entities(dataset: Dataset, entities: Entities, validated: Path) -> None:
    for name, table in _held(dataset, entities).items():
        write_table(validated / name, table)


def _held(dataset: Dataset, entities: Entities) -> dict[str, pa.Table]:
    """Name the file of each table; users of the log alone are not known yet."""
    tables = {_CREATIVES: entities.creatives, _ADS: entities.ads}
    is_known = not _are_users_of_the_log(dataset)
    return tables | ({_USERS: entities.users} if is_known else {})


def _are_users_of_the_log(dataset: Dataset) -> bool:
    """Tell whether users are declared by their ids alone."""
    return "users" not in dataset.tables and bool(dataset.fields("user"))


def _users_of_log(entities: Entities, validated: Path) -> pa.Table:
    ids = (
        pl.scan_parquet(validated / IMPRESSIONS / "part-*.parquet")
        .select(pl.col(Column.USER_ID).drop_nulls().unique().sort())
        .collect(engine="streaming")
        .to_arrow()
    )
    known = pc.cast(ids[Column.USER_ID], pa.string())
    return pa.table([known], schema=entities.users.schema)
