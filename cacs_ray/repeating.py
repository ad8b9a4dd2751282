"""Something done again and again beside other work."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(do: Callable[[], object], every_s: float, name: str) -> Iterator[None]:
    """Call something in a thread of its own every so often while the body runs.

    Args:
        do: what to call; once the body has ended it is not called any more, and a
            call that runs then is waited for. What it raises ends the thread.
        every_s: seconds before each call.
        name: of the thread.
    """
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(every_s):
            do()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
