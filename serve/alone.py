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
from pydantic import Field

from cacs_ray.config import parse_changes
from cacs_ray.errors import InputError
from serve.app import HttpGateway
from serve.arguments import AppArgs
from serve.wiring import wire

_LOOPBACK = "127.0.0.1"
_SOURCE = "the command line"


class AloneArgs(AppArgs):
    """What may be said to the service in one process."""

    port: int = Field(default=8000, ge=1, le=65_535)
    """On the loopback address."""
    ends_with: int | None = Field(default=None, ge=1)
    """Process to end with."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; arguments are those of `serve run serve.app:build_app`."""
    try:
        args = _parse(sys.argv[1:] if argv is None else list(argv))
        gateway = HttpGateway(wire(args), None)
        if args.ends_with is not None:
            _end_with(args.ends_with)
    except (InputError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    try:
        uvicorn.run(
            gateway.__serve_build_asgi_app__(),
            host=_LOOPBACK,
            port=args.port,
            log_level="warning",
            access_log=False,
        )
    finally:
        gateway.close()
    return 0


def _parse(argv: Sequence[str]) -> AloneArgs:
    """Return the arguments.

    Raises:
        InputError: one is unknown, out of bounds or not KEY=VALUE, or there is no
            bundle.
    """
    said = parse_changes(argv, source=_SOURCE)
    bundle = said.pop("bundle", None)
    if bundle is None:
        raise InputError(
            "is missing: bundle=DIR", source=_SOURCE, field="bundle", rule="missing"
        )
    args = AloneArgs.model_validate({"bundle": bundle})
    return args.override({**said, "fused": True}, source=_SOURCE)


def _end_with(pid: int) -> None:
    """End this process, in order, when another one has ended."""

    def wait() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="ends-with", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
