"""HAProxy outlives the actor that rules it, so that its death costs no request."""

import signal

import pytest

from cacs_ray.ingress import ingress_environment
from cacs_ray.promises.arrivals import constant_arrivals
from cacs_ray.promises.load import run_load
from cacs_ray.promises.service import Plan, serving


@pytest.mark.skipif(
    "CACS_HAPROXY" not in ingress_environment(), reason="no HAProxy for this system"
)
def test_requests_are_let_in_while_another_actor_starts(walk, tmp_path):
    bundle = walk / "run" / "bundle"
    with serving(Plan(tmp_path, bundle), "graph") as service:

        def rulers():
            return [actor.pid for actor in service.actors("Gateway", "proxy")]

        [ruler] = service.actors("Gateway", "proxy")
        ruler.kill(signal.SIGKILL)
        # Long enough for a new actor, whose HAProxy takes over.
        shots = run_load(service.target(), constant_arrivals(10.0, 12.0))
        assert shots["status"].value_counts().rows() == [(200, 120)]
        assert rulers()
        assert ruler.pid not in rulers()
