"""Two gateways behind one address are one service to whoever watches it."""

import json

import httpx
import pytest

from cacs_ray.promises.arrivals import constant_arrivals
from cacs_ray.promises.load import LoadLimits, run_load
from cacs_ray.promises.service import NEVER_CROWDED, Plan, serving, wait_until

ASKED = 60
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def service(walk, tmp_path_factory):
    out = tmp_path_factory.mktemp("two-gateways")
    plan = Plan(out, walk / "run" / "bundle")
    args = {"click_log": str(out / "clicks"), "state": str(out / "state")}
    with serving(
        plan, "graph", num_replicas=2, args={**args, **NEVER_CROWDED}
    ) as served:
        yield served


def test_counters_and_calibration_are_of_both(service):
    shots = run_load(
        service.target(),
        constant_arrivals(10.0, ASKED / 10),
        LoadLimits(keeps_answers=True, name="two"),
    )
    assert (shots["status"] == 200).all()
    # Only what the ranker said counts for its calibration.
    assert shots["fallback"].is_null().all()
    clicks = [
        {"request_id": shot_id, "ad_id": json.loads(placements)[0]["ad_id"]}
        for shot_id, placements in shots.select("shot_id", "placements").iter_rows()
    ]
    with httpx.Client(base_url=service.graph.url) as client:
        for click in clicks:
            answer = client.post("/v1/clicks", json={"clicks": [click]})
            assert answer.status_code == 202

    def is_told():
        return (
            service.counter("cacs_requests_decided_total") >= ASKED
            and service.counter("cacs_slot0_clicks_total") >= ASKED
        )

    wait_until(is_told, PATIENCE_S, "not all of it is told")
    page = httpx.get(f"{service.graph.url}/metrics").text
    by_gateway = [
        line for line in page.splitlines() if line.startswith("cacs_slot0_clicks_total")
    ]
    assert len(by_gateway) == 2
    # Were only one of them asked, this would show nothing.
    assert all(float(line.rpartition(" ")[2]) > 0 for line in by_gateway)
    assert service.counter("cacs_slot0_clicks_total") == ASKED
