"""A champion of MLflow's registry goes live in a running service, and back."""

import time

import httpx

from cacs_ray.promises.siblings import write_sibling
from cacs_ray.recipes.serving import serve_graph
from cacs_ray.registry import Registry
from cacs_ray.tracking.server import mlflow_server


def live_within(url, bundle_id, timeout_s=60.0):
    """Whether the service answers with a bundle before the time is over."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if httpx.get(f"{url}/v1/releases").json()["live"] == bundle_id:
            return True
    return False


def test_the_service_follows_the_champion_and_its_rollback(walk, tmp_path):
    first = walk / "run" / "bundle"
    second = tmp_path / "second"
    write_sibling(first, second)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    with mlflow_server(store, tmp_path / "mlflow.log", port=0) as mlflow:
        registry = Registry(mlflow, "shop")
        before = registry.register(first)
        registry.promote(before.version)
        told = {"bundle": str(first), "model": "shop", "tracking_uri": mlflow}
        with serve_graph(tmp_path, 0, {**told, "fused": True}) as graph:
            after = registry.register(second)
            assert after.bundle_id != before.bundle_id
            assert live_within(graph.url, before.bundle_id)

            registry.promote(after.version)
            assert live_within(graph.url, after.bundle_id)

            registry.roll_back()
            assert live_within(graph.url, before.bundle_id)
