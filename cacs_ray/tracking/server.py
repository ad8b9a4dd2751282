"""The MLflow user interface on this machine, for as long as a block lasts."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cacs_ray.tracking.store import ENVIRONMENT, open_client

_HOST = "127.0.0.1"
_POLL_S = 0.25
_GRACE_S = 8.0


@contextmanager
def mlflow_server(
    uri: str, log: Path, *, port: int = 0, timeout_s: float = 90.0
) -> Iterator[str]:
    """Serve a tracking database on the loopback address.

    The database may be written to directly at the same time.

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
    port = port or _free_port()
    url = f"http://{_HOST}:{port}"
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
        _wait_until_it_answers(process, url, log, timeout_s)
        yield url
    finally:
        _stop(process)


def _command(uri: str, port: int) -> list[str]:
    """Return the command line of a small server."""
    artifacts = Path(uri.removeprefix("sqlite:///")).resolve().parent / "artifacts"
    return [
        *[sys.executable, "-m", "mlflow", "server"],
        *["--backend-store-uri", uri, "--artifacts-destination", str(artifacts)],
        *["--host", _HOST, "--port", str(port), "--workers", "1"],
    ]


def _environment() -> dict[str, str]:
    """Return the environment of a server without its background jobs."""
    own = {**ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return {**os.environ, **own}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(
    process: subprocess.Popen[bytes], url: str, log: Path, timeout_s: float
) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            message = f"the MLflow server ended with {process.returncode}, see {log}"
            raise RuntimeError(message)
        if _answers(url):
            return
        time.sleep(_POLL_S)
    message = f"the MLflow server did not answer in {timeout_s:.0f} s, see {log}"
    raise RuntimeError(message)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


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
