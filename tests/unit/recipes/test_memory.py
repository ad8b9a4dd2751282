"""The weight of a job is that of all its processes, at their heaviest."""

import subprocess
import sys

import numpy as np

from cacs_ray.recipes.memory import weighing

HEAVY = 200_000_000


def test_what_is_freed_again_counts():
    with weighing(every_s=30) as before:
        pass
    with weighing(every_s=0.001) as weight:
        held = np.ones(HEAVY, np.int8)
        while weight.peak_mb < before.peak_mb + 0.9 * HEAVY / 1e6:
            held[0] += 1
        del held
    with weighing(every_s=30) as after:
        pass
    assert weight.peak_mb > after.peak_mb + 0.5 * HEAVY / 1e6


def test_descendants_count_and_mapped_files_do_not(tmp_path):
    file = np.memmap(tmp_path / "log", np.int8, "w+", shape=(HEAVY,))
    with weighing(every_s=30) as alone:
        file[:] = 1
    holds = f"held = bytearray(b'x') * {HEAVY}; print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        with weighing(every_s=30) as both:
            pass
        child.communicate(b"\n")
    gained = both.peak_mb - alone.peak_mb
    assert 0.9 * HEAVY / 1e6 < gained < 1.5 * HEAVY / 1e6
