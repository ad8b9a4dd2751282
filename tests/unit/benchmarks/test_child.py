import sys

import pytest

from cacs_ray.benchmarks.child import run_child

GROW = """
import subprocess, sys, time
child = "x = b'1' * {bytes}; print(len(x)); import time; time.sleep(0.7)"
subprocess.run([sys.executable, "-c", child], check=True)
print('{{"seconds": 1.5}}')
"""


def test_memory_of_descendants_counts():
    small = run_child([sys.executable, "-c", GROW.format(bytes=1)])
    large = run_child([sys.executable, "-c", GROW.format(bytes=200 * 2**20)])

    assert small.said == {"seconds": 1.5}
    assert large.peak_bytes - small.peak_bytes > 150 * 2**20


def test_a_child_that_fails_says_why():
    with pytest.raises(RuntimeError, match="no such market"):
        run_child([sys.executable, "-c", "raise SystemExit('no such market')"])
