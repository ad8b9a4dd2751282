"""What a shadow promises: it decides as well, answers nobody, and never shows."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from serve.api import DecideRequest
from serve.decision_log import DecisionLog, LogLimits, RowLog
from serve.gateway import Question, ServedRelease
from serve.metrics import Metrics
from serve.shadow import MAX_RUNNING

BY_HAND = LogLimits(flush_s=3600)


@pytest.fixture
def service(make_service, release, tmp_path):
    metrics = Metrics()
    both = {
        name: ServedRelease(replace(release, bundle_id=name)) for name in ("r1", "r2")
    }
    held = SimpleNamespace(live=both["r1"], held=both, get=both.get)
    made = make_service(
        metrics=metrics,
        held=held,
        log=DecisionLog(tmp_path / "log", metrics, BY_HAND),
        shadow={
            "shadow_release": "r2",
            "shadow": RowLog(
                tmp_path / "dark", "decisions", metrics.shadow_log, BY_HAND
            ),
        },
    )
    yield made
    made.gateway.close()


def decide(service, page_view, times=1):
    request = DecideRequest.model_validate_json(page_view)

    async def run():
        answers = [await service.gateway.decide(request) for _ in range(times)]
        await service.gateway._shadow.drain()
        return answers

    return asyncio.run(run())


@pytest.fixture
def page_view(page_view):
    import json

    return json.dumps(page_view)


def releases(directory):
    return {
        release
        for file in directory.glob("*.parquet")
        for release in pq.read_table(file)["release"].to_pylist()
    }


def test_it_is_logged_apart_from_what_was_answered(service, page_view, tmp_path):
    # The stand-in stages answer as r1, so the shadow decides by its fallbacks.
    (answer,) = decide(service, page_view)
    service.gateway.close()

    assert answer.origin.release == "r1"
    assert releases(tmp_path / "log") == {"r1"}
    assert releases(tmp_path / "dark") == {"r2"}


def test_it_counts_nothing_that_was_answered(service, page_view):
    decide(service, page_view, times=3)
    value = service.gateway.metrics.registry.get_sample_value
    labels = {"release": "r1", "policy": "cacs"}
    assert value("cacs_requests_decided_total", labels) == 3
    assert value("cacs_shadow_requests_total", {"outcome": "decided"}) == 3
    labels["release"] = "r2"
    assert value("cacs_requests_decided_total", labels) is None


def test_one_that_fails_shows_in_its_count_alone(service, page_view):
    del service.gateway.releases.held["r2"]
    (answer,) = decide(service, page_view)
    assert not answer.origin.is_fallback
    value = service.gateway.metrics.registry.get_sample_value
    assert value("cacs_shadow_requests_total", {"outcome": "failed"}) == 1


def test_it_is_skipped_when_it_cannot_keep_up(service, page_view):
    request = DecideRequest.model_validate_json(page_view)
    shadow = service.gateway._shadow

    async def run():
        for _ in range(MAX_RUNNING + 2):
            shadow.follow(request)
        await shadow.drain()

    asyncio.run(run())
    value = service.gateway.metrics.registry.get_sample_value
    assert value("cacs_shadow_requests_total", {"outcome": "skipped"}) == 2


def test_it_does_not_spend_what_a_crowded_gateway_spares(service, page_view):
    request = DecideRequest.model_validate_json(page_view)

    async def run():
        await service.gateway.decide(request, Question(is_crowded=True))
        await service.gateway._shadow.drain()

    asyncio.run(run())
    value = service.gateway.metrics.registry.get_sample_value
    assert value("cacs_shadow_requests_total", {"outcome": "skipped"}) == 1
    assert value("cacs_shadow_requests_total", {"outcome": "decided"}) is None
