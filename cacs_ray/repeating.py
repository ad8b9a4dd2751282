"""Something done again and again beside other work."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(do: Callable[[], object], every_s: float, name: str) -> Iterator[None]:
    """Call something in a thread of its own every so often while the body runs.

    However long a call takes, the next one is due when it was; a call that lasts longer
    delays it.

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
            next_s = max(next_s + every_s, time.monotonic())

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
