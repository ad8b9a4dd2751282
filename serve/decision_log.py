"""The decision log: every decision to Parquet, beside the path of the request.

A thread turns decisions into rows of `schema.DECISIONS` and writes them in files
that are whole or not there. What does not fit into the buffer is dropped and
counted, never silently and never half a request.
"""

import logging
import os
import threading
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from prometheus_client import Counter

from cacs_ray.answers.prepare import PreparedRequests
from cacs_ray.answers.table import DecisionOrigin, decisions_table
from cacs_ray.config import Config
from cacs_ray.data.files import write_table
from cacs_ray.decision.candidates import Decisions
from cacs_ray.features.catalogue import Catalogue
from serve.metrics import Metrics

_logger = logging.getLogger(__name__)


class LogLimits(Config):
    """When decisions are written, and how many may wait."""

    flush_rows: int = 20_000
    """So many waiting decisions are written at once."""
    flush_s: float = 2.0
    """No decision waits longer, while the disk takes it."""
    max_rows: int = 200_000
    """So many may wait; further ones are dropped and counted."""


@dataclass(frozen=True, slots=True)
class LoggedDecision:
    """What one request was, and what was decided; a row per candidate ad."""

    prepared: PreparedRequests
    decisions: Decisions
    catalogue: Catalogue
    origin: DecisionOrigin

    def __len__(self) -> int:
        return self.prepared.requests.num_rows

    def table(self) -> pa.Table:
        """Return its rows in the contract's schema."""
        return decisions_table(
            self.prepared, self.decisions, self.catalogue, self.origin
        )


class DecisionLog:
    """Buffers decisions and writes `decisions-<date>-<pid>-<token>-<n>.parquet`.

    The token is drawn once per log, so that files of other processes with the
    same number, on other machines or earlier, are never replaced.
    """

    def __init__(
        self, directory: str | Path, metrics: Metrics, limits: LogLimits | None = None
    ) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._metrics = metrics
        self._limits = limits or LogLimits()
        self._token = uuid.uuid4().hex[:8]
        self._num_files = 0
        self._waiting: list[LoggedDecision] = []
        self._num_waiting = 0
        self._is_closed = False
        self._wake = threading.Condition()
        self._writing = threading.Lock()
        self._thread = threading.Thread(
            target=self._run, name="decision-log", daemon=True
        )
        self._thread.start()

    def append(self, decision: LoggedDecision) -> bool:
        """Take one request's decisions; False when they were dropped (and counted)."""
        with self._wake:
            full = self._num_waiting + len(decision) > self._limits.max_rows
            if full or self._is_closed:
                self._metrics.dropped.inc(len(decision))
                return False
            self._waiting.append(decision)
            self._num_waiting += len(decision)
            self._metrics.waiting.set(self._num_waiting)
            if self._num_waiting >= self._limits.flush_rows:
                self._wake.notify()
        return True

    def flush(self) -> None:
        """Write what is waiting; on a full or broken disk it goes on waiting."""
        with self._writing:
            with self._wake:
                batch, self._waiting = self._waiting, []
            if not batch:
                return
            try:
                self._write(batch)
            except OSError as error:
                _logger.warning("decision log not written, will retry: %s", error)
                with self._wake:
                    self._waiting = batch + self._waiting
                return
            except pa.ArrowException:
                # Rows that cannot be written today cannot be tomorrow either.
                _logger.exception("decision log: rows that fit no table")
                self._leave(batch, self._metrics.dropped)
                return
            self._leave(batch, self._metrics.logged)

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
                _logger.error("decision log: %d decisions lost", self._num_waiting)
                self._metrics.dropped.inc(self._num_waiting)
                self._waiting, self._num_waiting = [], 0
                self._metrics.waiting.set(0)

    def _leave(self, batch: list[LoggedDecision], counter: Counter) -> None:
        """Count decisions that wait no longer."""
        num_rows = sum(len(decision) for decision in batch)
        with self._wake:
            self._num_waiting -= num_rows
            self._metrics.waiting.set(self._num_waiting)
        counter.inc(num_rows)

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._is_closed:
                    self._wake.wait(self._limits.flush_s)
                if self._is_closed:
                    return
            self.flush()

    def _write(self, batch: list[LoggedDecision]) -> None:
        # Releases may declare different request columns: absent ones become null.
        table = pa.concat_tables(
            [decision.table() for decision in batch], promote_options="default"
        ).combine_chunks()
        day = datetime.now(UTC).strftime("%Y%m%d")
        name = f"decisions-{day}-{os.getpid()}-{self._token}-{self._num_files}.parquet"
        write_table(self._directory / name, table)
        self._num_files += 1
