"""Middleware around every answer: its id, its count, and what is being answered."""

import re
import uuid
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.metrics import Metrics
from serve.records import trace_id

HEADER: Final = "x-request-id"
_PLAIN: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")


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

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(str(message["status"])).inc()
                headers = list(message.get("headers", ()))
                message["headers"] = [*headers, (HEADER.encode(), name.encode())]
            await send(message)

        try:
            with self._metrics.in_flight.track_inprogress():
                await self._app(scope, receive, named)
        finally:
            trace_id.reset(token)


def _id_of(scope: Scope) -> str:
    for key, value in scope["headers"]:
        if key == HEADER.encode() and _PLAIN.fullmatch(value):
            return bytes(value).decode()
    return uuid.uuid4().hex
