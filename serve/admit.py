"""Shedding: what cannot be answered soon is refused at once."""

from collections.abc import Sequence
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api import ProblemReport
from serve.body import JSON
from serve.metrics import Metrics

SHED_PATHS: Final = ("/v1/decide", "/v1/preview", "/v1/clicks")
"""What is refused when too much is in work; operations and health never are."""
RETRY_AFTER_S: Final = 1

_REFUSAL: Final = ProblemReport(
    error="too many requests are being answered; try again"
).model_dump_json()


class Admit:
    """Middleware that lets so many requests in, and refuses the others unread.

    A queue before the gateway would let requests wait past their deadline, which
    begins in it; and Ray Serve's own queue tries a busy replica again only after
    pauses that grow to half a second.

    Args:
        app: the application.
        max_in_flight: requests of `SHED_PATHS` answered at the same time.
        metrics: of the gateway.
    """

    def __init__(self, app: ASGIApp, max_in_flight: int, metrics: Metrics) -> None:
        self._app, self._most, self._metrics = app, max_in_flight, metrics
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 503."""
        if scope["type"] != "http" or not _is_shed(scope):
            await self._app(scope, receive, send)
            return
        if self._in_flight >= self._most:
            self._metrics.shed.inc()
            for message in _refusal():
                await send(message)
            return
        self._in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1


def _is_shed(scope: Scope) -> bool:
    """Tell by the end of the path: the service may stand under a prefix."""
    return str(scope["path"]).endswith(SHED_PATHS)


def _refusal() -> Sequence[Message]:
    headers = [
        (b"content-type", JSON.encode()),
        (b"retry-after", str(RETRY_AFTER_S).encode()),
    ]
    return (
        {"type": "http.response.start", "status": 503, "headers": headers},
        {"type": "http.response.body", "body": _REFUSAL.encode()},
    )
