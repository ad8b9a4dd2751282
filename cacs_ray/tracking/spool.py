"""What is to be told to MLflow, kept in files until it has been told.

Every process appends to a file of its own, one JSON record a line, and a second
file beside it says up to which byte the records have arrived. Whoever opens the
directory later takes over the files of processes that are gone.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

Record = dict[str, Any]
"""`op` says what to do, `run` for which run (our own key), the rest depends on op."""

_MAX_READ_BYTES = 4 * 2**20


class Spool:
    """One file of records and how far they have been delivered.

    Whoever holds a `Spool` holds a lock on its file, so that no record is
    delivered by two processes at once.
    """

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self.path = path
        self._stream = stream
        self._offset_path = path.with_suffix(".offset")
        self.delivered_bytes = _read_offset(self._offset_path)

    @classmethod
    def create(cls, directory: Path) -> "Spool":
        """Start a file of this process in `directory`, which is made if missing."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{time.time_ns():020d}-{os.getpid()}.jsonl"
        spool = cls.take_over(path, mode="ab+")
        if spool is None:
            message = f"somebody else holds the new spool {path}"
            raise BlockingIOError(message)
        return spool

    @classmethod
    def take_over(cls, path: Path, *, mode: str = "rb+") -> "Spool | None":
        """Open a file unless a living process holds it (None) or it is gone."""
        try:
            stream = path.open(mode)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            return None
        return cls(path, stream)

    def append(self, record: Record) -> None:
        """Add one record; it survives the end of this process."""
        self._stream.seek(0, os.SEEK_END)
        self._stream.write(json.dumps(record).encode() + b"\n")
        self._stream.flush()

    def pending(self) -> tuple[list[Record], int]:
        """Return the next records not yet delivered, and the byte where they end.

        A last line without its newline is what a killed process left: it is no
        record. At most 4 MiB are returned at once.
        """
        with self.path.open("rb") as stream:
            stream.seek(self.delivered_bytes)
            block = stream.read(_MAX_READ_BYTES)
        whole = block[: block.rfind(b"\n") + 1]
        return list(_parse(whole)), self.delivered_bytes + len(whole)

    def mark_delivered(self, end: int) -> None:
        """Remember that everything before byte `end` has arrived."""
        self.delivered_bytes = end
        aside = self._offset_path.with_suffix(".aside")
        aside.write_text(str(end))
        aside.replace(self._offset_path)

    def close(self) -> bool:
        """Give the file up; remove it and return True if all has been delivered."""
        if self._stream.closed:
            return not self.path.exists()
        records, _ = self.pending()
        if not records:
            self.path.unlink(missing_ok=True)
            self._offset_path.unlink(missing_ok=True)
        else:
            os.fsync(self._stream.fileno())
        self._stream.close()
        return not records


def take_over_all(directory: Path) -> list[Spool]:
    """Return the files in `directory` whose processes are gone, oldest first."""
    spools = [Spool.take_over(path) for path in sorted(directory.glob("*.jsonl"))]
    return [spool for spool in spools if spool is not None]


def _read_offset(path: Path) -> int:
    """Return the delivered bytes; 0 when nothing readable says otherwise."""
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def _parse(lines: bytes) -> Iterator[Record]:
    """Yield the records of whole lines, leaving out what is no JSON."""
    for line in lines.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue
