"""When requests are sent: fixed before a run, so that no answer moves the next one."""

import numpy as np

from cacs_ray.errors import InputError

MAX_ARRIVALS = 1_000_000
"""Of one run; more would be a mistake in the units of the rate."""


def constant_arrivals(rate: float, duration_s: float) -> np.ndarray:
    """Return arrivals at equal distances, the first at 0.

    Args:
        rate: requests a second, > 0.
        duration_s: seconds, > 0.

    Returns:
        float64 [N] seconds since the start, ascending, N = rate x duration rounded.

    Raises:
        InputError: no arrival, or more than `MAX_ARRIVALS`.

    >>> constant_arrivals(2.0, 2.0).tolist()
    [0.0, 0.5, 1.0, 1.5]
    """
    return np.arange(_num_arrivals(rate, duration_s)) / rate


def poisson_arrivals(rate: float, duration_s: float, seed: int) -> np.ndarray:
    """Return as many arrivals, spread as those of independent clients.

    Given their number, the arrivals of a Poisson process are uniform: so every seed
    sends the same number of requests, and figures of two runs compare.

    Args:
        rate: requests a second, > 0.
        duration_s: seconds, > 0.
        seed: of the draw.

    Returns:
        float64 [N] seconds since the start, ascending, all below `duration_s`.

    Raises:
        InputError: no arrival, or more than `MAX_ARRIVALS`.
    """
    count = _num_arrivals(rate, duration_s)
    draws = np.random.default_rng(seed).uniform(0.0, duration_s, count)
    return np.sort(draws)


def _num_arrivals(rate: float, duration_s: float) -> int:
    if not (rate > 0 and duration_s > 0):
        raise InputError(
            f"a rate of {rate:g}/s for {duration_s:g} s", rule="positive_load"
        )
    count = round(rate * duration_s)
    if not 1 <= count <= MAX_ARRIVALS:
        raise InputError(
            f"{rate:g}/s for {duration_s:g} s are {count} requests, "
            f"not 1 to {MAX_ARRIVALS}",
            rule="bounded_load",
        )
    return count
