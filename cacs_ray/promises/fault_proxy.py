"""A proxy on the loopback address that spoils answers on purpose.

Negative controls send the same load through it: the check must then fail, or it could
not have failed before.
"""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
import numpy as np
from aiohttp import web

from cacs_ray.local_server import LOOPBACK, free_port

_START_TIMEOUT_S: Final = 10.0
_MAX_BODY_BYTES: Final = 8 << 20
_OVERLOADED: Final = 503


@dataclass(frozen=True, slots=True)
class Fault:
    """What the proxy does to a share of the answers."""

    share: float = 0.0
    """Of all answers, drawn by `seed`; the rest passes unspoilt."""
    status: int | None = None
    """Answer with this status instead."""
    is_cut: bool = False
    """Close the connection without an answer."""
    delay_s: float = 0.0
    hides_retry_after: bool = False
    """Of answers with status 503."""
    release: str | None = None
    """Say that this bundle answered."""
    seed: int = 0


@contextmanager
def fault_proxy(upstream: str, fault: Fault) -> Iterator[str]:
    """Run a proxy in front of a service.

    Args:
        upstream: base address of the service.
        fault: what is done to answers.

    Yields:
        The base address to ask instead.

    Raises:
        TimeoutError: the proxy did not start.
    """
    port, ready, stop = free_port(), threading.Event(), threading.Event()

    async def serve() -> None:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
        ) as session:
            application = web.Application(client_max_size=_MAX_BODY_BYTES)
            spoil = _Spoiler(upstream, fault, session)
            application.router.add_route("*", "/{path:.*}", spoil.handle)
            runner = web.AppRunner(
                application, access_log=None, logger=_silent(), shutdown_timeout=1.0
            )
            await runner.setup()
            await web.TCPSite(runner, LOOPBACK, port).start()
            ready.set()
            loop.run_in_executor(None, stop.wait).add_done_callback(
                lambda _: ended.set()
            )
            await ended.wait()
            await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    try:
        if not ready.wait(_START_TIMEOUT_S):
            raise TimeoutError("the fault proxy did not start")
        yield f"http://{LOOPBACK}:{port}"
    finally:
        stop.set()
        thread.join(timeout=_START_TIMEOUT_S)


def _silent() -> logging.Logger:
    """Return a logger for requests that cannot be parsed: some are meant to be so."""
    logger = logging.getLogger(__name__)
    logger.setLevel(logging.CRITICAL)
    return logger


class _Spoiler:
    """Passes requests on and spoils some answers."""

    def __init__(
        self, upstream: str, fault: Fault, session: aiohttp.ClientSession
    ) -> None:
        self._upstream = upstream
        self._fault = fault
        self._session = session
        self._rng = np.random.default_rng(fault.seed)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Ask the service and return its answer, or something worse."""
        fault = self._fault
        is_spoilt = bool(self._rng.random() < fault.share)
        if is_spoilt and fault.is_cut and request.transport is not None:
            request.transport.abort()
        if is_spoilt and fault.status is not None:
            return web.Response(status=fault.status)
        passed = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in {"host", "content-length", "connection"}
        }
        async with self._session.request(
            request.method,
            self._upstream + request.raw_path,
            data=await request.read(),
            headers=passed,
        ) as answer:
            content, headers = await answer.read(), dict(answer.headers)
        if is_spoilt:
            await asyncio.sleep(fault.delay_s)
            content = _renamed(content, fault.release)
        hides = is_spoilt and fault.hides_retry_after and answer.status == _OVERLOADED
        kept = {"Content-Type"} if hides else {"Content-Type", "Retry-After"}
        return web.Response(
            status=answer.status,
            body=content,
            headers={name: headers[name] for name in kept if name in headers},
        )


def _renamed(content: bytes, release: str | None) -> bytes:
    if release is None:
        return content
    return json.dumps(json.loads(content) | {"release": release}).encode()
