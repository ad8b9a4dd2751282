"""How fast the machine itself was while something was measured.

A virtual processor is often a share of one, and half as fast while its neighbour is
busy, without a word from the system. A fixed piece of work tells: by the time of its
own thread, so that waiting for a turn among the machine's own processes does not
count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import thread_time
from typing import Final

import numpy as np

from cacs_ray.repeating import repeating

_EVERY_S: Final = 0.5
_TIMES: Final = 20_000
"""Of a loop: about a millisecond."""


@dataclass(slots=True)
class MachinePace:
    """Seconds of processor time that the same work took, again and again."""

    seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.seconds:
            return "pace of the machine unknown"
        slowed = np.array(self.seconds) / min(self.seconds)
        median, nine_tenths = np.quantile(slowed, [0.5, 0.9])
        return (
            f"the machine took {median:.2f} x its shortest time for the same work in "
            f"the median, {nine_tenths:.2f} at 90 %"
        )


@contextmanager
def machine_pace(every_s: float = _EVERY_S) -> Iterator[MachinePace]:
    """Do a fixed piece of work every so often while the body runs.

    Args:
        every_s: seconds between two; one takes about a millisecond.

    Yields:
        What each took; complete after the body.
    """
    pace = MachinePace()
    with repeating(lambda: pace.seconds.append(_work()), every_s, "machine-pace"):
        yield pace


def _work() -> float:
    started, total = thread_time(), 0
    for number in range(_TIMES):
        total += number * number
    return thread_time() - started
