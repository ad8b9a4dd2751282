"""The thread that carries records from the spool to MLflow, however long it takes."""

import logging
import threading
import time
from pathlib import Path

from cacs_ray.tracking.spool import Record, Spool, take_over_all
from cacs_ray.tracking.store import MlflowStore, mlflow_module

_log = logging.getLogger(__name__)

_IDLE_S = 0.3
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0


class Delivery:
    """Delivers one process's records, and those that earlier processes left.

    The caller only appends to a file; opening MLflow, sending, waiting and trying
    again happen in a thread that ends with the process.

    Args:
        uri: where MLflow is.
        experiment: the experiment's name.
        directory: the spool directory.
    """

    def __init__(self, uri: str, experiment: str, directory: Path) -> None:
        self._uri, self._experiment = uri, experiment
        left_over = take_over_all(directory) if directory.exists() else []
        self._spool = Spool.create(directory)
        self._spools = [*left_over, self._spool]
        self._store: MlflowStore | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._work = threading.Event()
        self._idle = threading.Event()
        self._work.set()
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def append(self, record: Record) -> None:
        """Hand one record over; costs one write to a local file."""
        with self._lock:
            self._spool.append(record)
            self._idle.clear()
        self._work.set()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is delivered; False if it took longer than allowed."""
        self._work.set()
        return self._idle.wait(timeout_s)

    def store(self) -> MlflowStore | None:
        """Return the store once it could be opened, for looking things up."""
        return self._store

    def close(self, timeout_s: float) -> bool:
        """Deliver what can be delivered in time, then end.

        Returns:
            True when nothing is pending; otherwise the spool keeps the rest and
            the next process with this spool directory delivers it.
        """
        delivered = self.flush(timeout_s)
        self._closing.set()
        self._work.set()
        self._thread.join(1.0)
        if not self._thread.is_alive():
            for spool in self._spools:
                spool.close()
        return delivered

    def _run(self) -> None:
        wait_s = _FIRST_WAIT_S
        while not self._closing.is_set():
            self._work.wait(_IDLE_S)
            self._work.clear()
            if self._try_to_deliver():
                wait_s = _FIRST_WAIT_S
                continue
            if wait_s == _FIRST_WAIT_S:
                _log.warning(
                    "MLflow at %s does not answer; the records wait in %s",
                    self._uri,
                    self._spool.path.parent,
                )
            self._closing.wait(wait_s)
            self._work.set()
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _try_to_deliver(self) -> bool:
        """Deliver all that is pending; False when the store could not be reached."""
        exceptions = mlflow_module("exceptions")
        try:
            if self._store is None:
                self._store = MlflowStore(self._uri, self._experiment)
            while self._deliver_some(self._store):
                pass
        except (exceptions.MlflowException, OSError) as error:
            _log.debug("delivery failed: %s", error)
            return False
        return True

    def _deliver_some(self, store: MlflowStore) -> bool:
        """Deliver one block of the oldest unfinished file; False when none is left."""
        for spool in self._spools:
            records, end = spool.pending()
            if records:
                store.apply(records)
                spool.mark_delivered(end)
                return True
        with self._lock:
            # Only under the lock is an empty spool surely still empty.
            records, _ = self._spool.pending()
            if not records:
                self._idle.set()
        return bool(records)


def now_ms() -> int:
    """Return the time as MLflow counts it: milliseconds since 1970."""
    return time.time_ns() // 1_000_000
