"""Files that are whole or not there: written aside, flushed to disk, renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cacs_ray.errors import InputError, naming_file

_CHUNK_BYTES = 1 << 20


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Fill a directory aside and rename it into place when all went well.

    Args:
        path: the directory to make. An old one is replaced as a whole, and only
            once the new one is complete on disk.

    Yields:
        The directory to write into, `<path>.partial-<pid>` beside `path`.

    Whatever the body raises passes through; then nothing new is left behind, no
    directory above `path` either, and an old `path` stands untouched.
    """
    target = Path(path).absolute()
    missing = [parent for parent in target.parents if not parent.exists()]
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    retired = target.with_name(f"{target.name}.retired-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for folder, _, names in os.walk(partial):
            for name in names:
                _flush(Path(folder, name))
            _flush(Path(folder))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        remove_empty(missing)
        raise
    # A directory with files in it cannot be renamed over: it steps aside first.
    if target.exists():
        os.rename(target, retired)
    os.rename(partial, target)
    _flush(target.parent)
    shutil.rmtree(retired, ignore_errors=True)


def refuse_foreign(directory: str | Path, *own: str) -> None:
    """Refuse to replace a directory that holds what its job does not write.

    Args:
        directory: need not exist.
        own: patterns of the names that the job writes into it.

    Raises:
        InputError: something else is in it, which would be lost.
    """
    path = Path(directory)
    for entry in sorted(path.iterdir()) if path.is_dir() else ():
        if not any(fnmatch(entry.name, pattern) for pattern in own):
            raise InputError(
                f"{entry.name!r} in it would be lost; name a new directory",
                source=str(path),
                field="--out",
                rule="own_out",
            )


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write one file so that a reader sees the old content or the new, never half."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(target)
    try:
        aside.write_bytes(content)
        _into_place(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write readable, key-sorted JSON; NaN and infinity are refused (`ValueError`)."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def write_table(path: str | Path, table: pa.Table) -> None:
    """Write one Parquet file."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(target)
    try:
        pq.write_table(table, aside, compression="zstd")
        _into_place(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def read_json(path: str | Path) -> Any:  # noqa: ANN401 - any JSON value
    """Read a JSON file.

    Raises:
        InputError: it is missing, torn or not JSON; the file is named.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror}", source=str(path), rule="readable"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"is not whole JSON: {error}", source=str(path), rule="readable"
        ) from error


def read_parquet(path: str | Path) -> pa.Table:
    """Read one Parquet file.

    Raises:
        InputError: it is missing, torn or not Parquet; the file is named.
    """
    with naming_file(path, "is not whole Parquet", OSError, pa.ArrowException):
        return pq.read_table(path)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read one safetensors file: arrays by name, each of its own shape and type.

    Raises:
        InputError: it is missing, torn or not safetensors; the file is named.
    """
    with naming_file(path, "is not whole safetensors", OSError, SafetensorError):
        arrays: dict[str, np.ndarray] = load_file(path)
        return arrays


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hex characters."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def remove_empty(directories: Sequence[Path]) -> None:
    """Remove directories, the innermost first, up to one that holds something."""
    for directory in directories:
        try:
            directory.rmdir()
        except OSError:
            return


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial-{os.getpid()}")


def _into_place(aside: Path, target: Path) -> None:
    _flush(aside)
    os.replace(aside, target)
    _flush(target.parent)


def _flush(path: Path) -> None:
    """Force one file or directory to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
