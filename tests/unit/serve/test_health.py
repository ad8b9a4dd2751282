"""What health and readiness say, and when a gateway takes part in traffic."""

import asyncio

import pytest


def test_health_is_a_golden_request_through_all_stages(make_service):
    service = make_service()

    response = service.send(None, path="/healthz", method="GET")

    assert (response.status_code, response.json()["release"]) == (200, "r1")
    assert service.selector.num_calls == service.ranker.num_calls == 1


@pytest.mark.parametrize("stage", ["selector", "ranker"])
def test_health_fails_when_a_stage_does(make_service, stage):
    service = make_service()
    getattr(service, stage).error = RuntimeError("down")
    response = service.send(None, path="/healthz", method="GET")
    assert response.status_code == 503
    assert response.json()["reason"] == f"{stage}_failed"


@pytest.mark.parametrize("stage", ["selector", "ranker"])
def test_a_stage_that_is_down_later_takes_no_gateway_out_of_traffic(
    make_service, stage, monkeypatch
):
    """Were it so for all gateways, nobody would get the fallbacks."""
    monkeypatch.setattr("serve.gateway._HEALTH_CACHE_S", 0.0)
    service = make_service()
    part = getattr(service, stage)

    def status():
        return service.send(None, path="/readyz", method="GET").status_code

    part.error = RuntimeError("not there yet")
    at_first = status()
    part.error = None
    when_whole = status()
    part.error = RuntimeError("down")
    assert (at_first, when_whole, status()) == (503, 200, 200)


def test_health_is_not_asked_of_the_stages_twice_in_a_second(make_service):
    service = make_service()

    async def ask():
        return await asyncio.gather(*(service.gateway.health() for _ in range(5)))

    assert asyncio.run(ask()) == [None] * 5
    assert service.selector.num_calls == 1
