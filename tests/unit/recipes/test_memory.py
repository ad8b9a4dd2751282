"""The weight of a job is that of all its processes, at their heaviest."""

import subprocess
import sys
import time

import numpy as np

from cacs_ray.recipes.memory import weighing

HEAVY = 400_000_000
MUCH_MB = 0.5 * HEAVY / 1e6
"""What other tests left may be given back meanwhile, but not as much."""


def weight_now():
    with weighing(every_s=30) as weight:
        pass
    return weight.peak_mb


def test_what_is_freed_again_counts():
    before = weight_now()
    ends = time.monotonic() + 60
    with weighing(every_s=0.001) as weight:
        held = np.ones(HEAVY, np.int8)
        while weight.peak_mb < before + MUCH_MB:
            assert time.monotonic() < ends
        held[0] += 1
        del held
    assert weight.peak_mb > weight_now() + MUCH_MB


def test_descendants_count():
    before = weight_now()
    holds = f"held = bytearray(b'x') * {HEAVY}; print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        both = weight_now()
        child.communicate(b"\n")
    assert both > before + MUCH_MB


def test_mapped_files_do_not_count(tmp_path):
    before = weight_now()
    file = np.memmap(tmp_path / "log", np.int8, "w+", shape=(HEAVY,))
    file[:] = 1
    both = weight_now()
    (tmp_path / "log").unlink()
    assert both < before + MUCH_MB
