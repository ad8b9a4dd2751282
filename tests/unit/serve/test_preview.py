"""What a preview promises: all the reasons, and no trace."""

import pyarrow.parquet as pq
import pytest

from serve.decision_log import DecisionLog, LogLimits
from serve.metrics import Metrics


def test_it_tells_every_creative_with_score_and_probability(make_service, page_view):
    service = make_service(epsilon=0.5)
    answer = service.send(page_view, path="/v1/preview").json()

    hat, shoe = answer["candidates"]
    assert [(c["creative_id"], c["selector_score"]) for c in hat["creatives"]] == [
        ("wool", 2.0),
        ("straw", 1.0),
    ]
    assert [c["probability"] for c in shoe["creatives"]] == [0.75, 0.25]
    assert [(c["clicks"], c["impressions"]) for c in hat["creatives"]] == [
        (1.0, 80.0),
        (9.0, 80.0),
    ]
    assert (shoe["slot"], hat["slot"]) == (0, 1)
    assert {"prepare", "selector", "ranker", "total"} <= set(answer["seconds"])


def test_it_leaves_no_trace(make_service, page_view, tmp_path):
    metrics = Metrics()
    log = DecisionLog(tmp_path, metrics, LogLimits(flush_s=3600))
    service = make_service(metrics=metrics, log=log)
    service.send(page_view, path="/v1/preview")
    service.gateway.close()
    assert not list(tmp_path.glob("*.parquet"))
    assert metrics.registry.get_sample_value("cacs_decisions_total") == 0


@pytest.mark.parametrize("path", ["/v1/preview", "/v1/decide"])
def test_another_order_may_be_asked_for(make_service, page_view, path):
    service = make_service()
    answer = service.send(page_view, path=f"{path}?order=rank_only").json()
    assert answer["policy"] == "rank_only"
    assert service.selector.num_calls == 0
    assert service.send(page_view, path=f"{path}?order=best").status_code == 422


def test_the_decision_log_says_which_order_was_asked_for(
    make_service, page_view, tmp_path
):
    log = DecisionLog(tmp_path, Metrics(), LogLimits(flush_s=3600))
    service = make_service(log=log)
    service.send(page_view, path="/v1/decide?order=post_rank")
    service.gateway.close()
    (file,) = tmp_path.glob("*.parquet")
    assert set(pq.read_table(file)["policy"].to_pylist()) == {"post_rank"}


def test_a_release_that_is_not_held_is_refused_by_name(make_service, page_view):
    service = make_service()
    answer = service.send(page_view, path="/v1/preview?release=r9")
    assert answer.status_code == 422
    assert answer.json()["problems"][0]["rule"] == "unknown_release"
    held = service.send(b"", path="/v1/releases", method="GET").json()
    assert (held["live"], held["held"]) == ("r1", ["r1"])
    assert "rank_only" in held["orders"]


def test_a_decision_takes_only_the_orders_that_are_allowed(make_service, page_view):
    service = make_service(rules={"orders": ("cacs", "post_rank")})
    refused = service.send(page_view, path="/v1/decide?order=teacher")
    assert refused.status_code == 422
    assert refused.json()["problems"][0]["rule"] == "order_not_allowed"
    assert service.teacher.num_calls == 0
    shown = service.send(page_view, path="/v1/preview?order=teacher").json()
    assert shown["policy"] == "teacher"
