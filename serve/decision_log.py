"""The logs of the service: decisions and clicks to Parquet, beside the request.

A thread turns what was decided into rows of the contract and writes them in files
that are whole or not there. What does not fit into the buffer is dropped and
counted, never silently and never half a request.
"""

import logging
import os
import threading
import time
import uuid
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


class Rows(Protocol):
    """Rows of a table that is made when it is written, not when it is asked for."""

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
        self._waiting: list[Rows] = []
        self._oldest_s: float | None = None
        """When the oldest waiting row came, by the monotonic clock."""
        counts.lag_s.set_function(self._lag_s)
        self._num_waiting = 0
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
            full = self._num_waiting + len(rows) > self._limits.max_rows
            if full or self._is_closed:
                self._counts.dropped.inc(len(rows))
                return False
            self._waiting.append(rows)
            if self._oldest_s is None:
                self._oldest_s = time.monotonic()
            self._num_waiting += len(rows)
            self._counts.waiting.set(self._num_waiting)
            if self._num_waiting >= self._limits.flush_rows:
                self._wake.notify()
        return True

    def flush(self) -> None:
        """Write what is waiting; on a full or broken disk it goes on waiting."""
        with self._writing:
            with self._wake:
                batch, self._waiting = self._waiting, []
                began_s, self._oldest_s = self._oldest_s, None
            if not batch:
                return
            try:
                self._write(batch)
            except OSError as error:
                _logger.warning("%s log not written, will retry: %s", self._name, error)
                with self._wake:
                    self._waiting = batch + self._waiting
                    self._oldest_s = began_s
                return
            except pa.ArrowException:
                # Rows that cannot be written today cannot be tomorrow either.
                _logger.exception("%s log: rows that fit no table", self._name)
                self._leave(batch, self._counts.dropped)
                return
            self._leave(batch, self._counts.logged)

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

    def _lag_s(self) -> float:
        began_s = self._oldest_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    def _leave(self, batch: list[Rows], counter: Counter) -> None:
        """Count decisions that wait no longer."""
        num_rows = sum(len(rows) for rows in batch)
        with self._wake:
            self._num_waiting -= num_rows
            self._counts.waiting.set(self._num_waiting)
        counter.inc(num_rows)

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._is_closed:
                    self._wake.wait(self._limits.flush_s)
                if self._is_closed:
                    return
            self.flush()

    def _write(self, batch: list[Rows]) -> None:
        # Releases may declare different request columns: absent ones become null.
        table = pa.concat_tables(
            [rows.table() for rows in batch], promote_options="default"
        ).combine_chunks()
        day = datetime.now(UTC).strftime("%Y%m%d")
        name = (
            f"{self._name}-{day}-{os.getpid()}-{self._token}-{self._num_files}.parquet"
        )
        write_table(self._directory / name, table)
        self._num_files += 1


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
