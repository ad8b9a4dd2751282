"""Timed work in a process of its own, with the memory of all its processes."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cacs_ray.cluster import SPIN_COUNT

_SAMPLE_EVERY_S: Final = 0.4
_TIMEOUT_S: Final = 1800.0
NUM_CPUS: Final = 2
"""Processors that both sides of a comparison get."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What a child process left."""

    said: Mapping[str, Any]
    """The JSON of its last line on standard output."""
    peak_bytes: int | None = None
    """Most memory of it and all its descendants at one moment, where that was
    watched: the sum of their PSS, in which a page shared by n processes counts 1 / n
    to each."""


def run_child(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    watch_memory: bool = False,
) -> Finished:
    """Run a program to its end on `NUM_CPUS` processors.

    Args:
        command: the program and its arguments.
        environment: variables to set beside those of this process.
        watch_memory: fill in `peak_bytes`. Reading the PSS of many processes slows
            them down, so a run that is watched is not one that is timed.

    Raises:
        RuntimeError: it ended with an error, with the end of what it said.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "GOMP_SPINCOUNT": SPIN_COUNT, **(environment or {})},
    )
    os.sched_setaffinity(process.pid, sorted(os.sched_getaffinity(0))[:NUM_CPUS])
    sampler = MemorySampler(process.pid) if watch_memory else None
    with sampler or nullcontext():
        stdout, stderr = process.communicate(timeout=_TIMEOUT_S)
    if process.returncode:
        raise RuntimeError(f"{command[:3]} failed: {stderr[-2000:]}")
    said = json.loads(stdout.splitlines()[-1])
    return Finished(said, sampler.peak_bytes if sampler else None)


def run_module(
    module: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    watch_memory: bool = False,
) -> Finished:
    """Run one of our own modules in a fresh interpreter; see `run_child`."""
    command = [sys.executable, "-m", module, *arguments]
    return run_child(command, environment, watch_memory=watch_memory)


def run_script(
    python: Path | str, script: str, *arguments: str, watch_memory: bool = False
) -> Finished:
    """Run a peer's program, which stands here but sees nothing of us."""
    place = str(Path(__file__).parent / script)
    # -P: modules beside the program must not hide those of the standard library.
    command = [str(python), "-P", place, *arguments]
    return run_child(command, _threads(), watch_memory=watch_memory)


def tell(result: Mapping[str, Any]) -> None:
    """Say the result as the last line, for whoever started this process."""
    sys.stdout.write(json.dumps(result) + "\n")


def _threads() -> dict[str, str]:
    """Give a peer all processors; ours divides them among its own workers."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
    return dict.fromkeys(names, str(NUM_CPUS))


class MemorySampler:
    """Watches a process tree from a thread."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pid, self._is_over = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        is_over = False
        while not is_over:  # at least once, however short the process lives
            self.peak_bytes = max(self.peak_bytes, tree_bytes(self._pid))
            is_over = self._is_over.wait(_SAMPLE_EVERY_S)


def tree_bytes(pid: int) -> int:
    """Return the PSS of a process and all its descendants in bytes.

    A process that ends meanwhile counts as 0.
    """
    return sum(_pss_bytes(member) for member in [pid, *_descendants(pid)])


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = list(children.get(pid, []))
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def _parent(entry: Path) -> int | None:
    try:
        # The name in parentheses may hold spaces; what follows it does not.
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


def _pss_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
