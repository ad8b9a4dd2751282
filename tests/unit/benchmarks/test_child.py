import subprocess
import sys

import pytest

from cacs_ray.benchmarks.child import MemorySampler, run_child

GROW = """
import subprocess, sys
child = "x = b'1' * {bytes}; print('grown', flush=True); input()"
subprocess.run([sys.executable, "-c", child], check=True)
print('{{"seconds": 1.5}}')
"""


def grown_bytes(size: int) -> int:
    """Memory of a process and its child, which holds so many bytes until told."""
    command = [sys.executable, "-c", GROW.format(bytes=size)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "grown\n"
        sampler = MemorySampler(process.pid)
        with sampler:
            pass
        said, _ = process.communicate("\n")
    assert said == '{"seconds": 1.5}\n'
    return sampler.peak_bytes


def test_memory_of_descendants_counts():
    assert grown_bytes(200 * 2**20) - grown_bytes(1) > 150 * 2**20


def test_a_child_says_its_result_on_its_last_line():
    child = run_child([sys.executable, "-c", "print('x'); print('{\"seconds\": 1.5}')"])
    assert child.said == {"seconds": 1.5}


def test_a_child_that_fails_says_why():
    with pytest.raises(RuntimeError, match="no such market"):
        run_child([sys.executable, "-c", "raise SystemExit('no such market')"])
