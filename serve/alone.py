"""The service in one process, without Ray: for a laptop, and to see what Ray costs.

python -m serve.alone bundle=run/bundle port=8000

With `ends_with=PID` it ends when that process has ended, however that came.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence

import psutil
import uvicorn

from cacs_ray.config import parse_changes
from cacs_ray.errors import InputError
from serve.app import HttpGateway, wire
from serve.arguments import AppArgs

_LOOPBACK = "127.0.0.1"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; arguments are those of `serve run serve.app:build_app`."""
    try:
        said = parse_changes(sys.argv[1:] if argv is None else list(argv))
        port = int(said.pop("port", 8000))
        guardian = said.pop("ends_with", None)
        args = AppArgs.model_validate({**said, "fused": True})
        gateway = HttpGateway(wire(args), None)
        if guardian is not None:
            _end_with(int(guardian))
    except (InputError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    try:
        uvicorn.run(
            gateway.__serve_build_asgi_app__(),
            host=_LOOPBACK,
            port=port,
            log_level="warning",
            access_log=False,
        )
    finally:
        gateway.close()
    return 0


def _end_with(pid: int) -> None:
    """End this process, in order, when another one has ended."""

    def wait() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="ends-with", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
