"""How much memory the processes of a job hold, for who asks what a stage costs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psutil

from cacs_ray.repeating import repeating

_EVERY_S: Final = 1.0
_MB: Final = 1e6


@dataclass(slots=True)
class Weight:
    """What was weighed so far."""

    peak_mb: float = 0.0
    """The most that was held at once, in megabytes (10^6 bytes)."""


@contextmanager
def weighing(every_s: float = _EVERY_S) -> Iterator[Weight]:
    """Weigh this process and its descendants while the body runs.

    Counted is resident memory less what Linux calls shared: files that are mapped,
    such as an encoded log, which the system takes back when it wants to, and the
    object store of Ray, whose size is set. Elsewhere both count. A local Ray
    descends from the job; workers of a cluster that the job was submitted to do not,
    and are not weighed.

    Args:
        every_s: seconds between two looks; a shorter peak may be missed, but never
            what is held when the body begins or ends.

    Yields:
        The peak; complete after the body.
    """
    weight = Weight()

    def look() -> None:
        weight.peak_mb = max(weight.peak_mb, _held_bytes() / _MB)

    look()
    try:
        with repeating(look, every_s, "weighing"):
            yield weight
    finally:
        look()


def _held_bytes() -> int:
    me = psutil.Process()
    try:
        others = me.children(recursive=True)
    except (psutil.Error, OSError):
        # What is not told is not weighed; the work goes on.
        others = []
    return sum(_private_bytes(one) for one in (me, *others))


def _private_bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_info()
    except psutil.Error:
        # It ended meanwhile, or is another user's.
        return 0
    # Only Linux tells what is shared.
    return int(memory.rss - getattr(memory, "shared", 0))
