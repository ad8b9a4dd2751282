"""Under which names the service answers.

A page of another site may give its own name the loopback address once it is open (DNS
rebinding). Then its browser takes the service for that site and lets it read answers;
what it cannot change is the name that it asks for.
"""

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from serve.api import Problem, ProblemReport
from serve.body import JSON

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
ANY_HOST: Final = "*"
"""Among what is configured: hosts are not looked at."""
PROBE_PATHS: Final = ("/healthz", "/readyz", "/metrics")
"""Asked by whoever watches the service, under the address of a pod or replica."""

_REFUSAL: Final = ProblemReport(
    error="the service does not answer under this host name",
    problems=[
        Problem(
            field="host",
            message="must be a name of the setting allowed_hosts",
            rule="allowed_hosts",
        )
    ],
).model_dump_json()


def check_host(name: str) -> str:
    """Return a name of `allowed_hosts` that some request can ask for.

    Raises:
        ValueError: it has a port, a space, a path, or is IPv6 without brackets: no
            request would ever match it.
    """
    is_bare = ":" in name and not name.startswith("[")
    if not name or is_bare or name.endswith(".") or re.search(r"[\s/]|\]:", name):
        raise ValueError(
            f"{name!r} is no host name: neither port nor path, addresses of IPv6 in "
            "brackets"
        )
    return name


class AllowedHosts:
    """Middleware that refuses requests for another host than those allowed, 400.

    `PROBE_PATHS` also answer to any IP address and to who names no host, as probes
    do: a page comes under a name. Starlette's own middleware knows no such paths.

    Args:
        app: the application.
        hosts: names without ports, addresses of IPv6 in brackets.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        self._allowed = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 400."""
        if scope["type"] != "http" or self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", JSON.encode())]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": _REFUSAL.encode()})

    def _is_allowed(self, scope: Scope) -> bool:
        # Each of them, if there are several: another server may have read another.
        names = list(_host_names(scope))
        if names and self._allowed.issuperset(names):
            return True
        # By the end of the path: the service may stand under a prefix.
        is_probe = str(scope["path"]).endswith(PROBE_PATHS)
        return is_probe and all(_is_address(name) for name in names)


def _host_names(scope: Scope) -> Iterator[str]:
    """Return what the `Host` headers say, without ports and in small letters."""
    for key, value in scope["headers"]:
        if key == b"host":
            said = bytes(value).decode("latin-1").lower()
            name, _, port = said.rpartition(":")
            yield name if port.isdecimal() and name else said


def _is_address(name: str) -> bool:
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
