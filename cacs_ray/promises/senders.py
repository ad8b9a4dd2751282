"""Clients that send what they are told, over one connection or several."""

import http.client
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from cacs_ray.promises.hostile import HostileRequest
from cacs_ray.promises.load import NO_ANSWER

TIMEOUT_S: Final = 20.0
CLOSED: Final = 1
"""The service closed the connection without a word, which breaks nothing."""
_WAITING: Final = 4
"""Requests that wait for a connection, times their number."""

Send = Callable[[HostileRequest], int]
"""Sends one request and returns its status, 0 when there was no answer."""


class Senders:
    """Sends requests side by side and keeps their names and statuses.

    Args:
        base: address of the service.
        num_connections: requests that are open at a time; fewer than a gateway has
            places for, so that none is refused for the others.
    """

    def __init__(self, base: str, num_connections: int = 4) -> None:
        self._base = base
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(num_connections, "sender")
        # What is sent is made meanwhile, but not all of it beforehand.
        self._room = threading.BoundedSemaphore(_WAITING * num_connections)
        self._asked: list[tuple[str, Future[int]]] = []
        self._links: list[http.client.HTTPConnection] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        for link in self._links:
            link.close()

    def ask(self, request: HostileRequest) -> None:
        """Send a request soon; return when there is room for the next one."""
        self._room.acquire()
        self._asked.append((request.name, self._threads.submit(self._send, request)))

    def outcomes(self) -> list[tuple[str, int]]:
        """Wait for all that was asked; return the name and status of each, in order."""
        asked, self._asked = self._asked, []
        return [(name, answer.result()) for name, answer in asked]

    def _send(self, request: HostileRequest) -> int:
        try:
            if not hasattr(self._own, "link"):
                self._own.link = _connection(self._base)
                self._links.append(self._own.link)
            return _sent(self._own.link, request)
        finally:
            self._room.release()


def sender(base: str) -> Send:
    """Return what sends requests to an address, over one connection while it lasts.

    The standard library's client, because it sends what it is told: others mend or
    refuse paths and headers.
    """
    link = _connection(base)
    return lambda request: _sent(link, request)


def _connection(base: str) -> http.client.HTTPConnection:
    where = urlsplit(base)
    host, port = str(where.hostname), int(where.port or 80)
    return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)


def _sent(link: http.client.HTTPConnection, request: HostileRequest) -> int:
    for _ in range(2):  # once more when the service closed an idle connection
        try:
            return _exchange(link, request)
        except (TimeoutError, ConnectionRefusedError):
            link.close()
            return NO_ANSWER
        except (http.client.HTTPException, OSError):
            link.close()
    return CLOSED


def _exchange(link: http.client.HTTPConnection, request: HostileRequest) -> int:
    named = {name.lower() for name, _ in request.headers}
    link.putrequest(
        request.method,
        request.path,
        skip_host="host" in named,
        skip_accept_encoding=True,
    )
    for name, value in request.headers:
        link.putheader(name, value)
    link.putheader("content-length", str(len(request.body)))
    link.endheaders(request.body)
    answer = link.getresponse()
    answer.read()
    return answer.status
