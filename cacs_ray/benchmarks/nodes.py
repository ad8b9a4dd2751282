"""Several Ray nodes of one processor each, simulated on this machine."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.cluster_utils import Cluster

_STORE_BYTES = 2**29


@contextmanager
def simulated_nodes(count: int) -> Iterator[None]:
    """Start nodes and connect to them; expects `cluster.local_environment`.

    Args:
        count: nodes, at least 1.
    """
    head = {
        "num_cpus": 1,
        "object_store_memory": _STORE_BYTES,
        "include_dashboard": False,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(count - 1):
            cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)
        ray.init(
            address=cluster.address, log_to_driver=False, logging_level=logging.ERROR
        )
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]
