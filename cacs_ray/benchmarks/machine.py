"""What the figures were measured on."""

import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np

_PACKAGES: Final = ("ray", "torch", "polars", "pyarrow", "mlflow", "numpy")
_TRIAD_NUMBERS: Final = 2**25
"""Of float64: 256 MiB an array, far beyond any cache."""


def machine() -> dict[str, object]:
    """Return cores, model, memory, load and versions as JSON values."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "model": _model(),
        "memory_gib": round(memory / 2**30, 1),
        "load_average_before": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def memory_bandwidth(repeats: int = 5) -> float:
    """Return the bytes per second of the best of some triads on one thread.

    A triad is `a = b + s c` over 256 MiB arrays, here in two NumPy operations that
    read three arrays and write two: five times the size of one.

    Args:
        repeats: triads to time, >= 1; the best counts.
    """
    b, c = np.ones((2, _TRIAD_NUMBERS))
    a = np.empty_like(b)
    best = float("inf")
    for _ in range(repeats + 1):  # the first one maps the pages
        started = time.perf_counter()
        np.multiply(c, 3.0, out=a)
        np.add(a, b, out=a)
        best = min(best, time.perf_counter() - started)
    return 5 * a.nbytes / best


def _model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()
