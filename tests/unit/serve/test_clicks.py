"""What taking clicks promises: the contract's rows, or a clear no."""

import asyncio
import json
from datetime import UTC, datetime

import httpx
import polars as pl
import pytest

from cacs_ray.schema import CLICKS
from serve.api import Click, ClicksRequest
from serve.clicks import Clicks, FirstPlaces
from serve.decision_log import ClickLog, LogLimits
from serve.http import create_http
from serve.metrics import Metrics

CLICK = {"request_id": "q1", "ad_id": "hat", "click_ts": "2026-01-02T03:04:06Z"}


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def clicks(tmp_path, metrics):
    log = ClickLog(tmp_path / "clicks", metrics, LogLimits(flush_s=3600, max_rows=3))
    made = Clicks(log, metrics)
    yield made
    made.close()


@pytest.fixture
def send(make_service, clicks):
    def ask(body):
        http = create_http(make_service().gateway, clicks=clicks)

        async def run():
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(http), base_url="http://serve"
            ) as client:
                kind = "content" if isinstance(body, bytes) else "json"
                return await client.post("/v1/clicks", **{kind: body})

        return asyncio.run(run())

    return ask


def test_clicks_are_logged_in_the_contracts_schema(send, clicks, tmp_path):
    before = datetime.now(UTC)
    undated = {"request_id": "q2", "ad_id": "shoe"}
    answer = send({"clicks": [CLICK, undated]})
    clicks.close()

    assert (answer.status_code, answer.json()) == (202, {"accepted": 2, "dropped": 0})
    table = pl.read_parquet(tmp_path / "clicks" / "clicks-*.parquet")
    assert table.columns == CLICKS.names
    assert table["request_id"].to_list() == ["q1", "q2"]
    first, second = table["click_ts"].to_list()
    assert first == datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)
    assert before <= second <= datetime.now(UTC)


def test_a_click_that_does_not_say_that_it_is_json_is_refused(send, metrics):
    """Any page that a reader opens could send it: a browser asks nobody first."""
    answer = send(json.dumps({"clicks": [CLICK]}).encode())
    assert answer.status_code == 415
    assert metrics.registry.get_sample_value("cacs_clicks_total") == 0


def test_what_has_no_room_is_refused_whole_and_counted(send, metrics):
    assert send({"clicks": [CLICK] * 2}).status_code == 202
    answer = send({"clicks": [CLICK] * 2})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json() == {"accepted": 0, "dropped": 2}
    value = metrics.registry.get_sample_value
    assert value("cacs_clicks_total") == 2
    assert value("cacs_clicks_dropped_total") == 2


@pytest.mark.parametrize(
    "body",
    [
        {"clicks": []},
        {"clicks": [CLICK] * 1001},
        {"clicks": [CLICK | {"user_id": "u"}]},
        {"clicks": [CLICK | {"click_ts": "2026-01-02T03:04:06"}]},
        {"clicks": [CLICK | {"ad_id": "a\0"}]},
        {"clicks": [{"request_id": "q1"}]},
        {},
        [],
    ],
)
def test_what_is_no_click_is_refused(send, body):
    assert send(body).status_code == 422


def test_without_a_click_log_there_is_no_such_route(make_service):
    assert (
        make_service().send({"clicks": [CLICK]}, path="/v1/clicks").status_code == 404
    )


def test_clicks_on_first_places_are_told_once(make_service, clicks, page_view, metrics):
    places = FirstPlaces()
    service = make_service(metrics=metrics, shadow={"first_places": places})
    service.send(page_view)
    counted = Clicks(clicks._log, metrics, places)
    value = metrics.registry.get_sample_value

    # The shoe is in slot 0, the hat in slot 1.
    for ad_id, told in (("hat", 0), ("shoe", 1), ("shoe", 1)):
        counted.accept(ClicksRequest(clicks=[Click(request_id="q1", ad_id=ad_id)]))
        assert value("cacs_slot0_clicks_total") == told
    assert value("cacs_predicted_clicks_total") == pytest.approx(0.05)
