"""The logs of the service: decisions and clicks to Parquet, beside the request.

What was decided becomes rows of the contract at once, a little work with each
request; a thread writes them in files that are whole or not there. Were it to make
the rows too, it would hold up every request that is answered meanwhile. What does
not fit into the buffer is dropped and counted, never silently and never half a
request.
"""

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from prometheus_client import Counter

from cacs_ray.config import Config
from cacs_ray.data.files import write_table
from serve.metrics import LogCounts, Metrics

_logger = logging.getLogger(__name__)


class LogLimits(Config):
    """When decisions are written, and how many may wait."""

    flush_rows: int = 20_000
    """So many waiting decisions are written at once."""
    flush_s: float = 2.0
    """No decision waits longer, while the disk takes it."""
    max_rows: int = 200_000
    """So many may wait; further ones are dropped and counted."""
    flush_bytes: int = 64 << 20
    """So many bytes of waiting decisions are written at once."""
    max_bytes: int = 512 << 20
    """So many may wait, because a request's own columns stand in every row."""


class Rows(Protocol):
    """Rows of a table that is made if there is room for it."""

    def __len__(self) -> int: ...

    def table(self) -> pa.Table:
        """Return them in the contract's schema."""
        ...


class RowLog:
    """Buffers rows and writes `<name>-<date>-<pid>-<token>-<n>.parquet`.

    The token is drawn once per log, so that files of other processes with the
    same number, on other machines or earlier, are never replaced.
    """

    def __init__(
        self,
        directory: str | Path,
        name: str,
        counts: LogCounts,
        limits: LogLimits | None = None,
    ) -> None:
        self._directory = Path(directory)
        self._name = name
        self._directory.mkdir(parents=True, exist_ok=True)
        self._counts = counts
        self._limits = limits or LogLimits()
        self._token = uuid.uuid4().hex[:8]
        self._num_files = 0
        self._waiting: list[pa.Table] = []
        self._oldest_s: float | None = None
        """When the oldest waiting row came, by the monotonic clock."""
        counts.lag_s.set_function(self._lag_s)
        self._num_waiting = 0
        self._bytes_waiting = 0
        self._is_closed = False
        self._wake = threading.Condition()
        self._writing = threading.Lock()
        self._thread = threading.Thread(
            target=self._run, name=f"{name}-log", daemon=True
        )
        self._thread.start()

    def append(self, rows: Rows) -> bool:
        """Take one request's decisions; False when they were dropped (and counted)."""
        with self._wake:
            table = self._fitting(rows)
            if table is None:
                self._counts.dropped.inc(len(rows))
                return False
            self._waiting.append(table)
            if self._oldest_s is None:
                self._oldest_s = time.monotonic()
            self._count_waiting(len(rows), table.nbytes)
            if self._is_much():
                self._wake.notify()
        return True

    def flush(self) -> None:
        """Write what is waiting; on a full or broken disk it goes on waiting."""
        with self._writing:
            with self._wake:
                batch, self._waiting = self._waiting, []
                began_s, self._oldest_s = self._oldest_s, None
            for tables in _by_schema(batch):
                self._flush_file(tables, began_s)

    def close(self) -> None:
        """Write the rest and stop; what cannot be written now counts as dropped."""
        with self._wake:
            if self._is_closed:
                return
            self._is_closed = True
            self._wake.notify()
        self._thread.join()
        self.flush()
        with self._wake:
            if self._num_waiting:
                _logger.error("%s log: %d rows lost", self._name, self._num_waiting)
                self._counts.dropped.inc(self._num_waiting)
                self._waiting, self._num_waiting = [], 0
                self._counts.waiting.set(0)

    def _fitting(self, rows: Rows) -> pa.Table | None:
        """Return the rows as a table if there is room for it."""
        limits = self._limits
        if self._is_closed or self._num_waiting + len(rows) > limits.max_rows:
            return None
        table = self._table(rows)
        if table is None or self._bytes_waiting + table.nbytes > limits.max_bytes:
            return None
        return table

    def _is_much(self) -> bool:
        limits = self._limits
        return (
            self._num_waiting >= limits.flush_rows
            or self._bytes_waiting >= limits.flush_bytes
        )

    def _count_waiting(self, num_rows: int, num_bytes: int) -> None:
        self._num_waiting += num_rows
        self._bytes_waiting += num_bytes
        self._counts.waiting.set(self._num_waiting)

    def _lag_s(self) -> float:
        began_s = self._oldest_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    def _table(self, rows: Rows) -> pa.Table | None:
        try:
            return rows.table()
        except Exception:
            # A fault here must not cost the answer.
            _logger.exception("%s log: rows that make no table", self._name)
            return None

    def _leave(self, batch: list[pa.Table], counter: Counter) -> None:
        """Count decisions that wait no longer."""
        num_rows = sum(table.num_rows for table in batch)
        with self._wake:
            self._count_waiting(-num_rows, -sum(table.nbytes for table in batch))
        counter.inc(num_rows)

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._is_closed:
                    self._wake.wait(self._limits.flush_s)
                if self._is_closed:
                    return
            self.flush()

    def _flush_file(self, tables: list[pa.Table], began_s: float | None) -> None:
        try:
            self._write(pa.concat_tables(tables).combine_chunks())
        except OSError as error:
            _logger.warning("%s log not written, will retry: %s", self._name, error)
            with self._wake:
                self._waiting = tables + self._waiting
                self._oldest_s = began_s
        except pa.ArrowException:
            _logger.exception("%s log: rows that fit no table", self._name)
            self._leave(tables, self._counts.dropped)
        else:
            self._leave(tables, self._counts.logged)

    def _write(self, table: pa.Table) -> None:
        day = datetime.now(UTC).strftime("%Y%m%d")
        name = (
            f"{self._name}-{day}-{os.getpid()}-{self._token}-{self._num_files}.parquet"
        )
        write_table(self._directory / name, table)
        self._num_files += 1


def _by_schema(batch: list[pa.Table]) -> Iterable[list[pa.Table]]:
    """Sort what waits by its columns: those of two releases may differ in kind.

    Compared, not hashed: to hash a schema writes it out, a hundred times as slow.
    """
    parts: list[list[pa.Table]] = []
    for table in batch:
        for part in parts:
            if part[0].schema.equals(table.schema):
                part.append(table)
                break
        else:
            parts.append([table])
    return parts


class ClickLog(RowLog):
    """Clicks as they came in; joined with decisions later."""

    def __init__(
        self, directory: str | Path, metrics: Metrics, limits: LogLimits | None = None
    ) -> None:
        super().__init__(directory, "clicks", metrics.click_log, limits)


class DecisionLog(RowLog):
    """Every decision of a gateway, a row per candidate ad."""

    def __init__(
        self, directory: str | Path, metrics: Metrics, limits: LogLimits | None = None
    ) -> None:
        super().__init__(directory, "decisions", metrics.decision_log, limits)
