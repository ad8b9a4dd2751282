"""Something done again and again beside other work."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(do: Callable[[], object], every_s: float, name: str) -> Iterator[None]:
    """Call something in a thread of its own every so often while the body runs.

    The moments are fixed from the start, however long a call takes; those that a call
    outlasts are left out.

    Args:
        do: what to call; once the body has ended it is not called any more, and a
            call that runs then is waited for. What it raises ends the thread.
        every_s: seconds before the first call, and from one to the next.
        name: of the thread.
    """
    stop = threading.Event()

    def run() -> None:
        next_s = time.monotonic() + every_s
        while not stop.wait(max(0.0, next_s - time.monotonic())):
            do()
            left_out = max(0.0, time.monotonic() - next_s) // every_s
            next_s += every_s * (1 + left_out)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
