"""Processes of a service under test: found by parent, killed one by one, weighed.

Read from /proc, hence Linux. Only what descends from a process that the check started
is ever found, so nothing else on the machine can be hit.
"""

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cacs_ray.repeating import repeating

_PROC: Final = Path("/proc")
_REPLICA: Final = "ray::ServeReplica:"
_PROXIES: Final = {"ray::ProxyActor": "proxy", "ray::HAProxyManager": "HAProxy"}
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Actor:
    """One replica or proxy."""

    pid: int
    name: str
    """Of its deployment, such as `Gateway`; `proxy` for Ray Serve's own, `HAProxy` for
    the actor that rules HAProxy."""

    def resident_bytes(self) -> int:
        """Return its resident memory; 0 when it has ended."""
        try:
            return int((_PROC / str(self.pid) / "statm").read_text().split()[1]) * (
                _PAGE_BYTES
            )
        except (FileNotFoundError, ProcessLookupError):
            return 0

    def kill(self, how: signal.Signals) -> bool:
        """Send a signal; False when it has ended already."""
        try:
            os.kill(self.pid, how)
        except ProcessLookupError:
            return False
        return True


def actors_of(root_pid: int) -> list[Actor]:
    """Return replicas and proxies that descend from a process, by pid."""
    parents = _parents()
    found = []
    for pid in sorted(parents):
        name = _actor_name((_arguments(pid) or [""])[0])
        if name and _descends(pid, root_pid, parents):
            found.append(Actor(pid, name))
    return found


def command_lines(root_pid: int) -> list[list[str]]:
    """Return the arguments of every process that descends from one."""
    parents = _parents()
    return [_arguments(p) for p in sorted(parents) if _descends(p, root_pid, parents)]


@dataclass(slots=True)
class Killings:
    """What was killed so far."""

    actors: list[Actor]

    def __str__(self) -> str:
        names = [actor.name for actor in self.actors]
        each = [f"{names.count(name)} {name}" for name in sorted(set(names))]
        return f"{len(names)} killed: {', '.join(each)}" if names else "none killed"


@contextmanager
def killing(
    find: Callable[[], list[Actor]],
    every_s: float,
    *,
    how: signal.Signals = signal.SIGKILL,
    most: int | None = None,
    seed: int = 0,
) -> Iterator[Killings]:
    """Kill a random one of some actors every so often, while the body runs.

    Args:
        find: returns who may be killed now.
        every_s: seconds between two killings; the first comes after as long.
        how: the signal.
        most: killings; None = as many as there is time for.
        seed: of the choice.

    Yields:
        What was killed; complete after the body.
    """
    rng, done = random.Random(seed), Killings([])

    def kill_one() -> None:
        actors = [] if len(done.actors) == most else find()
        if actors:
            actor = rng.choice(actors)
            if actor.kill(how):
                done.actors.append(actor)

    with repeating(kill_one, every_s, "killing"):
        yield done


def _actor_name(title: str) -> str:
    for begins, name in _PROXIES.items():
        if title.startswith(begins):
            return name
    # ray::ServeReplica:<application>:<deployment>[.<method>]
    return title.split(":")[4].split(".")[0] if title.startswith(_REPLICA) else ""


def _arguments(pid: int) -> list[str]:
    try:
        line = (_PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [part.decode(errors="replace") for part in line.split(b"\0")]


def _parents() -> dict[int, int]:
    """Return parent by pid of all processes."""
    parents = {}
    for directory in _PROC.iterdir():
        if directory.name.isdecimal():
            try:
                status = (directory / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            # The name stands in brackets and may hold anything, spaces too.
            parents[int(directory.name)] = int(status.rpartition(")")[2].split()[1])
    return parents


def _descends(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid > 1:
        if pid == root:
            return True
        pid = parents.get(pid, 0)
    return False
