"""Servers that run beside a job on this machine: a port, and waiting for health.

How a server is stopped stays with whoever starts it: MLflow's group is told to end,
the serving graph is asked first, because it has a decision log to write.
"""

import socket
import subprocess
import time
from pathlib import Path

import httpx

LOOPBACK = "127.0.0.1"

_POLL_S = 0.25
_ANSWER_S = 3.0


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(
    process: subprocess.Popen[bytes], health: str, log: Path, timeout_s: float
) -> None:
    """Return once a server answers its health address with 200.

    Args:
        process: the server.
        health: address to ask.
        log: where the server writes; named in errors.
        timeout_s: how long it may take.

    Raises:
        RuntimeError: the server ended, or did not become healthy in time.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            message = f"the server ended with {process.returncode}, see {log}"
            raise RuntimeError(message)
        if _is_healthy(health):
            return
        time.sleep(_POLL_S)
    message = f"{health} was not healthy within {timeout_s:.0f} s, see {log}"
    raise RuntimeError(message)


def _is_healthy(health: str) -> bool:
    try:
        return httpx.get(health, timeout=_ANSWER_S).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
