"""What the local Ray promises."""

import subprocess
import sys

import ray

from cacs_ray.cluster import start_ray


def test_workers_import_the_library(ray_local):
    @ray.remote(num_cpus=1)
    def module_of_the_error():
        from cacs_ray.errors import InputError

        return InputError.__module__

    assert ray.get(module_of_the_error.remote()) == "cacs_ray.errors"


def test_starting_twice_changes_nothing(ray_local):
    before = ray.get_runtime_context().get_node_id()
    with start_ray():
        assert ray.get_runtime_context().get_node_id() == before
    assert ray.is_initialized()


def test_the_node_has_the_loopback_address_only(ray_local):
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]


UNWINDS = """
import os, signal, sys, time
from cacs_ray.cluster import start_ray

signal.signal(signal.SIGTERM, lambda *_: sys.exit("unwound"))
with start_ray(1, object_store_bytes=80 * 2**20):
    pass
os.kill(os.getpid(), signal.SIGTERM)
signal.pause()
"""


def test_what_ends_a_process_still_unwinds_it_after_ray():
    """Else the servers that a job starts afterwards outlive it."""
    ended = subprocess.run(
        [sys.executable, "-c", UNWINDS],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stderr.strip()[-7:]) == (1, "unwound")
