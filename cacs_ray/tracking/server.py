"""The MLflow user interface on this machine, for as long as a block lasts."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cacs_ray.local_server import LOOPBACK, free_port, wait_until_healthy
from cacs_ray.tracking.store import ENVIRONMENT, open_client

_GRACE_S = 8.0
_HOSTS = f"{LOOPBACK}:*,localhost:*"
"""Names it may be asked under, at any port, that of a tunnel too. MLflow's own list
has patterns of private addresses that names like `10.evil.example` match as well."""


@contextmanager
def mlflow_server(
    uri: str, log: Path, *, port: int = 0, timeout_s: float = 90.0
) -> Iterator[str]:
    """Serve a tracking database on the loopback address.

    It answers under the names of the loopback address alone and runs no jobs of its
    own. The database may be written to directly at the same time.

    Args:
        uri: `sqlite:////absolute/path.db`.
        log: file for what the server says.
        port: 0 for any free one.
        timeout_s: how long it may take to answer.

    Yields:
        The base address, like `http://127.0.0.1:5000`.

    Raises:
        RuntimeError: the server ended or did not answer in time.
    """
    open_client(uri)
    port = port or free_port()
    url = f"http://{LOOPBACK}:{port}"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            _command(uri, port),
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            # Its own session, so that its workers end with it.
            start_new_session=True,
            env=_environment(),
        )
    try:
        wait_until_healthy(process, f"{url}/health", log, timeout_s)
        yield url
    finally:
        _stop(process)


def _command(uri: str, port: int) -> list[str]:
    """Return the command line of a small server."""
    artifacts = Path(uri.removeprefix("sqlite:///")).resolve().parent / "artifacts"
    return [
        *[sys.executable, "-m", "mlflow", "server"],
        *["--backend-store-uri", uri, "--artifacts-destination", str(artifacts)],
        *["--host", LOOPBACK, "--port", str(port), "--workers", "1"],
        *["--allowed-hosts", _HOSTS],
    ]


def _environment() -> dict[str, str]:
    """Return the environment of a server without its background jobs."""
    own = {**ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return {**os.environ, **own}


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers: first asked, then made to."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_GRACE_S)
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()
