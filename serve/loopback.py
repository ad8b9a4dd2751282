"""A graph that is heard on this machine alone, where its Ray is."""

from importlib import import_module
from typing import Any

from ray import serve, util
from ray.serve.exceptions import RayServeException

from cacs_ray.local_server import LOOPBACK


def listen_on_loopback() -> None:
    """Bind this replica's server for other replicas as Ray binds its own servers.

    Ray Serve opens it on every address, whatever Ray itself listens on, and it takes
    pickled calls from whoever connects. It does so after the constructor of a
    deployment, which is where this is called. Elsewhere, and where Ray listens on the
    network, nothing changes: there a firewall or `RAY_USE_TLS` has to keep it.
    """
    try:
        serve.get_replica_context()
    except RayServeException:
        return
    if _node_address() != LOOPBACK:
        return
    # Its own modules say nothing about types, and this one is private besides.
    replica: Any = import_module("ray.serve._private.replica")
    bind = replica.add_port_to_grpc_server

    def bind_loopback(server: object, address: str) -> int:
        return int(bind(server, address.replace("[::]", LOOPBACK)))

    replica.add_port_to_grpc_server = bind_loopback


def _node_address() -> str:
    address: Any = util
    return str(address.get_node_ip_address())
