"""Batches made one ahead, off the training thread."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Wanted = TypeVar("Wanted")
Made = TypeVar("Made")

_AHEAD = 2


@contextmanager
def ahead(
    make: Callable[[Wanted], Made], wanted: Sequence[Wanted]
) -> Iterator[Iterator[Made]]:
    """Make things in order in a thread of their own while earlier ones are used.

    Args:
        make: called in one other thread, in order; what it raises is raised where
            the thing is taken.
        wanted: what to make.

    Yields:
        The things, in order. Leaving the block early drops what is not made yet.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        pending: list[Future[Made]] = [pool.submit(make, w) for w in wanted[:_AHEAD]]

        def taken() -> Iterator[Made]:
            for number in range(len(wanted)):
                if number + _AHEAD < len(wanted):
                    pending.append(pool.submit(make, wanted[number + _AHEAD]))
                yield pending.pop(0).result()

        try:
            yield taken()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
