"""What is read of a running service, from the pages that it and Ray write."""

from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from cacs_ray.promises import service
from cacs_ray.promises.service import Plan, Service
from cacs_ray.recipes.serving import ServedGraph

GATEWAY = """# HELP cacs_requests_total HTTP answers by status.
# TYPE cacs_requests_total counter
cacs_requests_total{status="200"} 40.0
cacs_requests_total{status="503"} 2.0
cacs_decisions_dropped_total 7.0
"""
RAY = """
ray_serve_replica_processing_queries{a="x",deployment="Gateway",replica="r1"} 3.0
ray_serve_replica_processing_queries{a="x",deployment="Ranker",replica="r2"} 0.0
ray_serve_num_http_requests_total{deployment="Gateway",replica="r1"} 9.0
"""


@pytest.fixture
def running(monkeypatch):
    """A service whose pages are given here."""

    def get(address, **options):
        if "closed" in address:
            raise httpx.ConnectError("refused")
        return SimpleNamespace(text=RAY if "ray" in address else GATEWAY)

    monkeypatch.setattr(service.httpx, "get", get)
    monkeypatch.setattr(service, "_metric_addresses", lambda _: ["closed:1", "ray:2"])
    graph = ServedGraph("http://127.0.0.1:1", 1, Path("decisions"))
    return Service(graph, None, Plan(Path("out"), Path("bundle")))


def test_a_counter_is_summed_over_its_labels(running):
    assert running.counter("cacs_requests_total") == 40 + 2
    assert running.counter("cacs_decisions_dropped_total") == 7
    assert running.counter("no_such_counter") == 0


def test_work_in_flight_is_told_by_replica(running):
    assert running.in_flight() == {"Gateway/r1": 3.0, "Ranker/r2": 0.0}


def test_durations_shrink_but_not_to_nothing():
    plan = Plan(Path("out"), Path("bundle"), scale=0.05)
    assert plan.seconds(600) == 0.05 * 600
    assert plan.seconds(10, least=5) == 5
    assert plan.count(1000) == 50
    assert plan.count(10) == 20


def test_only_a_faulty_graph_takes_faults(running):
    with pytest.raises(ValueError, match="no faults"):
        running.set_fault(selector="slow")


def test_faults_are_written_whole(running, tmp_path):
    file = tmp_path / "fault.json"
    faulty = Service(running.graph, None, running.plan, file)
    faulty.set_fault(selector="slow")
    assert file.read_text() == '{"selector": "slow"}'
    faulty.set_fault()
    assert file.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [file]
