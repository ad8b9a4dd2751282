"""Where Ray runs: the cluster at hand, or a private one on this machine."""

import importlib
import logging
import os
import secrets
import signal
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

SPIN_COUNT = "100000"
"""How often an OpenMP thread looks for work before it gives its processor back: long
enough for the gap between two operators of a step, too short to starve what runs
beside. The default, without end, made steps 20 times slower under load, and 1000 cost
a third of the speed without any; see docs/log.md."""

_LOCAL_ENVIRONMENT = {
    # Ray reads this name on every system: off means that all its servers listen
    # on the loopback address alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers start from this very environment; nothing has to be copied for them.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Relative paths mean the same in a worker as in the program that started it.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # A pipeline that waits for a processor it can never get ends after this time.
    "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "300",
    "RAY_AIR_NEW_OUTPUT": "0",
    # A stage that was full is tried again soon: pauses that grow to half a second
    # leave replicas idle after an overload.
    "RAY_SERVE_ROUTER_RETRY_INITIAL_BACKOFF_S": "0.005",
    "RAY_SERVE_ROUTER_RETRY_MAX_BACKOFF_S": "0.02",
    "GOMP_SPINCOUNT": SPIN_COUNT,
    # As many tasks run at once as there are processors; each gets by with its own.
    "POLARS_MAX_THREADS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}

_MAX_OBJECT_STORE_BYTES = 2 * 2**30
_MIN_OBJECT_STORE_BYTES = 200 * 2**20
_MAX_TEMPORARY_PATH = 40
"""Longer ones overflow the 107 characters of a Unix socket's path."""


def local_environment() -> dict[str, str]:
    """Return the variables of a private, loopback-only Ray.

    Variables that are set already win. Without `RAY_AUTH_MODE` the cluster gets a
    token of its own that is written nowhere, so that other users of the machine
    cannot reach it.
    """
    wanted = dict(_LOCAL_ENVIRONMENT)
    if "RAY_AUTH_MODE" not in os.environ:
        wanted["RAY_AUTH_MODE"] = "token"
        wanted["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    roots = [str(Path(__file__).resolve().parents[1])]
    roots += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    merged = {name: os.environ.get(name, value) for name, value in wanted.items()}
    return merged | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(roots))}


def num_usable_cpus() -> int:
    """Return the processors this process may use, at least 1."""
    return len(os.sched_getaffinity(0))


def start_ray(
    num_cpus: int | None = None, *, object_store_bytes: int | None = None
) -> ExitStack:
    """Connect to the cluster at hand, or start a private local one.

    A cluster is at hand inside a submitted job and where `RAY_ADDRESS` is set; it
    keeps its own settings. The local one listens on the loopback address only and
    needs no fixed port. Inside a process that is already connected nothing happens.

    Args:
        num_cpus: logical processors of a local cluster, at least 1; by default one
            more than this process may use (at least 3), because Ray Data reads
            nothing while Train workers hold every processor.
        object_store_bytes: shared memory of a local cluster; by default 15 % of
            the machine's memory, between 200 MiB and 2 GiB.

    Returns:
        A context: leaving it disconnects, and stops a local cluster. Without
        `with` the connection lasts until the process ends.
    """
    import ray

    if ray.is_initialized():
        return ExitStack()
    _quieten_ray_data()
    with ExitStack() as stack:
        stack.callback(_put_back_sigterm, signal.getsignal(signal.SIGTERM))
        stack.callback(ray.shutdown)
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=True, logging_level=logging.WARNING)
            # Ray set a handler of Python's, then one of its own behind Python's back,
            # which prints a stack and ends a job that is stopped at once.
            _put_back_sigterm(signal.getsignal(signal.SIGTERM))
            return stack.pop_all()
        os.environ.update(local_environment())
        _let_ray_read_its_environment_again()
        _init_local(
            {
                "num_cpus": num_cpus or max(3, num_usable_cpus() + 1),
                "object_store_memory": object_store_bytes or _object_store_bytes(),
                "_temp_dir": _short_temporary_directory(),
            }
        )
        return stack.pop_all()


def _put_back_sigterm(before: Any) -> None:  # noqa: ANN401 - a handler of Python's
    """Put back what SIGTERM does.

    Ray takes it for itself, and when it ends leaves the system's default behind
    Python's back: that ends a process at once, and what it has started outlives it.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and before is not None:
        signal.signal(signal.SIGTERM, before)


def _init_local(options: dict[str, Any]) -> None:
    """Start Ray; once more if a busy machine was too slow for Ray's patience."""
    import ray

    for is_last in (False, True):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **options,
            )
            return
        except Exception as error:
            # Ray has no class of its own for this.
            ray.shutdown()
            if is_last or "timed out during startup" not in str(error):
                raise


def _let_ray_read_its_environment_again() -> None:
    """Make switches hold that Ray read when it was imported, maybe long ago."""
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False
    importlib.import_module("ray._raylet").Config.initialize("")


def _quieten_ray_data() -> None:
    """Keep the warnings of Ray Data, without a line whenever a pipeline starts."""
    from ray.util.debug import log_once

    # Ray Data sets its own level when it is imported, which is later.
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "WARNING")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It would warn once that its progress bars are off, which is as we want it.
    log_once("ray_data_progress_manager_disabled")


def _object_store_bytes() -> int:
    """Return 15 % of the machine's memory within the bounds."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    share = int(0.15 * memory)
    return min(max(share, _MIN_OBJECT_STORE_BYTES), _MAX_OBJECT_STORE_BYTES)


def _short_temporary_directory() -> str | None:
    """Return a directory for Ray's sockets, or None for Ray's own choice."""
    usual = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(usual) <= _MAX_TEMPORARY_PATH:
        return None
    return os.path.join(os.sep, "var", "tmp", "ray")
