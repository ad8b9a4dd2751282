"""Middleware around every answer: its id, its count, and what is being answered."""

import logging
import re
import uuid
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api import ProblemReport
from serve.body import JSON
from serve.metrics import Metrics
from serve.records import trace_id

HEADER: Final = "x-request-id"
_BUG: Final = ProblemReport(error="the service has a bug").model_dump_json()
_PLAIN: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_logger = logging.getLogger(__name__)


class Observe:
    """Counts answers by status and those in flight; names each in log and answer.

    A plain `X-Request-Id` of the caller is kept, so that one id leads through all
    systems; any other is replaced.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; look at the start of the answer."""
        if scope["type"] != "http":  # the lifespan of the application
            await self._app(scope, receive, send)
            return
        name = _id_of(scope)
        token = trace_id.set(name)
        has_started = False

        async def named(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                self._metrics.requests.labels(str(message["status"])).inc()
                headers = list(message.get("headers", ()))
                message["headers"] = [*headers, (HEADER.encode(), name.encode())]
            await send(message)

        try:
            with self._metrics.in_flight.track_inprogress():
                await self._app(scope, receive, named)
        except Exception:
            # Starlette answers only outside of all middleware: uncounted, unnamed.
            _logger.exception("a bug: the request is answered with 500")
            if has_started:
                raise
            for message in _bug():
                await named(message)
        finally:
            trace_id.reset(token)


def _bug() -> tuple[Message, Message]:
    headers = [(b"content-type", JSON.encode())]
    return (
        {"type": "http.response.start", "status": 500, "headers": headers},
        {"type": "http.response.body", "body": _BUG.encode()},
    )


def _id_of(scope: Scope) -> str:
    for key, value in scope["headers"]:
        if key == HEADER.encode() and _PLAIN.fullmatch(value):
            return bytes(value).decode()
    return uuid.uuid4().hex
