"""Work beside requests that lets them go first.

Two threads of Python take turns at the interpreter: while one loads a release, a
decision takes half as long again, and behind it a queue grows. In the moments in which
nothing is asked, the same work is hardly felt (docs/decisions/0019).
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, sleep, thread_time
from types import FrameType
from typing import Any, Final

SHARE: Final = 0.1
"""About so much of the time such work has, however much is asked meanwhile."""
STRETCH_S: Final = 0.005
"""So long it goes on before it rests; as long as the interpreter lets a thread."""
POLL_S: Final = 0.002
"""How often it looks whether anything is asked, and its shortest rest."""
LONGEST_S: Final = 60.0
"""After so long it rests no more: a large release must be loaded in time too, see
`board.NEXT_S`."""


def always() -> bool:
    """Return True: for a replica that does not know whether it is asked anything."""
    return True


@contextmanager
def gently(
    is_busy: Callable[[], bool] = always,
    *,
    clock: Callable[[], float] = perf_counter,
    work: Callable[[], float] = thread_time,
    rest: Callable[[float], None] = sleep,
) -> Iterator[None]:
    """Let this thread rest again and again while the body runs.

    Between two calls of functions, whosever they are: neither what reads files nor what
    builds models must know of it. One call that lasts, such as a large product, ends
    before there is a rest; and there is none after `LONGEST_S`. What waits, for a disk
    or for the interpreter, disturbs nobody and earns no rest. A profiler of this thread
    stands still meanwhile. On Python 3.11 other threads do not notice; from 3.12 on,
    code that they run too tells its calls to the interpreter meanwhile, which was not
    measured.

    Args:
        is_busy: whether anything is asked now: rests end when nothing is.
        clock: seconds.
        work: seconds of processor that this thread has had.
        rest: sleeps so many seconds.
    """
    began_s, had_s = clock(), work()
    last_s = began_s + LONGEST_S

    def look(_frame: FrameType, _event: str, _arg: Any) -> None:  # noqa: ANN401
        nonlocal began_s, had_s
        now_s = clock()
        if now_s - began_s < STRETCH_S or now_s > last_s:
            return
        end_s = min(last_s, now_s + (work() - had_s) * (1 / SHARE - 1))
        rest(POLL_S)
        while clock() < end_s and is_busy():
            rest(POLL_S)
        began_s, had_s = clock(), work()

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)
