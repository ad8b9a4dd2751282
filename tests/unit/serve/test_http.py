"""What HTTP promises: strict bodies, clear refusals, never a crash."""

import html
import json

import numpy as np
import pytest

from cacs_ray.decision.candidates import Candidates
from cacs_ray.errors import InputError
from serve.api import MAX_CREATIVES, num_values
from serve.bounds import check_lists


def _with(page_view, **changes):
    return page_view | changes


def _candidates(*changes):
    return [{"ad_id": "hat", "bid_micros": 1} | change for change in changes]


def problem(response):
    (first, *_) = response.json()["problems"]
    return first["field"], first["rule"]


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"surprise": 1}, "surprise", "extra_forbidden"),
        ({"request_id": 7}, "request_id", "string_type"),
        ({"request_id": ""}, "request_id", "string_too_short"),
        ({"request_id": "x" * 257}, "request_id", "string_too_long"),
        ({"request_id": "a\x00b"}, "request_id", "string_pattern_mismatch"),
        ({"request_ts": "2026-01-01T00:00:00"}, "request_ts", "timezone_aware"),
        ({"request_ts": "yesterday"}, "request_ts", "datetime_parsing"),
        ({"request_ts": "0001-01-01T00:00:00+14:00"}, "request_ts", None),
        ({"num_slots": 0}, "num_slots", "greater_than_equal"),
        ({"num_slots": "2"}, "num_slots", "int_type"),
        ({"candidates": []}, "candidates", "too_short"),
        ({"candidates": _candidates({}, {})}, "", "duplicate_ad"),
        (
            {"candidates": _candidates({"bid_micros": -5})},
            "candidates.0.bid_micros",
            "greater_than",
        ),
        (
            {"candidates": _candidates({"bid_micros": 1.5})},
            "candidates.0.bid_micros",
            None,
        ),
        (
            {"candidates": _candidates({"bid_micros": 10**13})},
            "candidates.0.bid_micros",
            "less_than_equal",
        ),
        (
            {"candidates": _candidates({"creative_ids": []})},
            "candidates.0.creative_ids",
            "too_short",
        ),
        (
            {"candidates": _candidates({"creative_ids": ["wool", "wool"]})},
            "candidates.0",
            "duplicate_creative",
        ),
        ({"features": {"colour": "red"}}, "features.colour", "undeclared_feature"),
        ({"features": {"hour": "7"}}, "features.hour", "wrong_type"),
        ({"features": {"hour": 10**400}}, "features.hour", None),
        ({"features": {"hour": True}}, "features.hour", "wrong_type"),
        ({"features": {"device": 10**30}}, "features.device", "wrong_type"),
        ({"features": {"device": 1.5}}, "features.device", "wrong_type"),
        ({"features": {"device": ["phone"]}}, "features.device", "wrong_type"),
        ({"features": {"taste": [1.0]}}, "features.taste", "vector_wrong_size"),
        ({"features": {"taste": [1.0, "x"]}}, "features.taste", "wrong_type"),
        ({"features": {"seen": "a"}}, "features.seen", "wrong_type"),
        ({"features": {"query": 5}}, "features.query", "wrong_type"),
    ],
)
def test_a_request_that_breaks_its_schema_is_refused_by_field_and_rule(
    make_service, page_view, change, field, rule
):
    response = make_service().send(_with(page_view, **change))

    assert response.status_code == 422
    named_field, named_rule = problem(response)
    assert named_field.startswith(field)
    assert rule in (None, named_rule)


@pytest.mark.parametrize(
    "features",
    [
        {},
        {"device": None, "query": None, "hour": None, "taste": None, "seen": None},
        {"device": "phone", "query": "warm hat", "hour": -1.5, "taste": [0, 1.5]},
        {"device": 3, "hour": 0, "seen": ["a", 7], "query": ""},
        {"device": True},
    ],
)
def test_declared_features_of_their_kind_are_taken(make_service, page_view, features):
    service = make_service()
    response = service.send(_with(page_view, features=features))
    assert response.status_code == 200
    assert not response.json()["is_fallback"]


def test_more_than_500_ads_are_too_many(make_service, page_view):
    many = [{"ad_id": f"ad{n}", "bid_micros": 1} for n in range(501)]
    service = make_service()
    assert service.send(_with(page_view, candidates=many)).status_code == 422
    assert service.send(_with(page_view, candidates=many[:500])).status_code == 200


def test_more_than_10_000_creatives_are_too_many(make_service, page_view):
    ids = [f"c{n}" for n in range(5_001)]
    many = [
        {"ad_id": ad, "bid_micros": 1, "creative_ids": ids} for ad in ("hat", "shoe")
    ]
    response = make_service().send(_with(page_view, candidates=many))
    assert problem(response)[1] == "too_many_creatives"


def _wide(num_ads, num_seen, **features):
    return {
        "candidates": [{"ad_id": f"ad{n}", "bid_micros": 1} for n in range(num_ads)],
        "features": {"seen": [1] * num_seen, **features},
    }


@pytest.mark.parametrize(
    ("num_ads", "num_seen", "is_taken"),
    [(500, 1_999, True), (500, 2_000, False), (250, 4_000, False), (1, 4_096, True)],
)
def test_ads_times_feature_values_are_bounded_together(
    make_service, page_view, num_ads, num_seen, is_taken
):
    wide = _wide(num_ads, num_seen, hour=1.0)
    response = make_service().send(_with(page_view, **wide))

    assert response.status_code == (200 if is_taken else 422)
    if not is_taken:
        (told,) = response.json()["problems"]
        assert (told["field"], told["rule"]) == (
            "candidates",
            "too_many_feature_values",
        )
        each = num_seen + 1
        assert (
            f"{num_ads} ads x {each} feature values = {num_ads * each}"
            in (told["message"])
        )


def test_a_text_counts_by_its_length():
    assert num_values([1, None, True, 2.5]) == 4
    assert num_values(["x" * 7]) == 1
    assert num_values(["x" * 16, ["y" * 4, "y" * 4, 3]]) == 1 + 3 + (16 + 8) // 8


def test_200_ads_with_all_declared_features_are_ordinary(make_service, page_view):
    ordinary = _wide(200, 50, device="phone", query="warm hat " * 20, taste=[0.5, 1.5])
    assert make_service().send(_with(page_view, **ordinary)).status_code == 200


def test_one_ad_with_very_many_creatives_does_not_widen_all_lists():
    def asked(num_ads, longest):
        lists = np.zeros((num_ads, longest), np.int32)
        lists[:, 0] = lists[0] = 1
        return Candidates((), lists[:, 0], (), lists[:, 0], lists, lists[:, 0])

    check_lists(asked(500, 500))
    with pytest.raises(InputError, match="500 ads x 501 live creatives") as caught:
        check_lists(asked(500, 501))
    assert (caught.value.field, caught.value.rule) == ("candidates", "too_long_lists")
    check_lists(asked(2, MAX_CREATIVES - 1))
    with pytest.raises(InputError) as caught:
        check_lists(asked(2, MAX_CREATIVES))
    assert caught.value.rule == "too_many_creatives"


def test_a_body_over_a_megabyte_is_refused(make_service):
    response = make_service().send(b" " * (2**20 + 1))
    assert response.status_code == 413


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-encoding": "gzip"},
    ],
)
def test_only_plain_json_is_read(make_service, page_view, headers):
    response = make_service().send(json.dumps(page_view).encode(), headers=headers)
    assert response.status_code == 415


@pytest.mark.parametrize("value", ["0", "-1", "abc", "1e400", "nan", "99999999999"])
def test_a_timeout_out_of_bounds_is_refused(make_service, page_view, value):
    response = make_service().send(page_view, headers={"x-request-timeout-ms": value})
    assert response.status_code == 422


GOOD = (
    '{"request_id":"q","candidates":[{"ad_id":"hat","bid_micros":%s}],"features":{%s}}'
)
HOSTILE = {
    "empty": b"",
    "null": b"null",
    "array": b"[]",
    "number": b"1e400",
    "text": b'"x"',
    "cut short": b'{"request_id":"q","candidates":[{',
    "two values": b"{}{}",
    "NUL": b"\x00",
    "bad UTF-8": b'{"request_id":"\xff\xfe"}',
    "UTF-16": '{"request_id":"q"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "lone surrogate": (GOOD % ("1", r'"device":"\ud800"')).encode(),
    "surrogate key": (GOOD % ("1", r'"\udc00":1')).encode(),
    "NaN bid": (GOOD % ("NaN", "")).encode(),
    "infinite bid": (GOOD % ("Infinity", "")).encode(),
    "huge bid": (GOOD % ("1e400", "")).encode(),
    "huge integer bid": (GOOD % ("9" * 5000, "")).encode(),
    "minus zero bid": (GOOD % ("-0", "")).encode(),
    "NaN feature": (GOOD % ("1", '"hour":NaN')).encode(),
    "infinite feature": (GOOD % ("1", '"hour":-Infinity')).encode(),
    "overflowing feature": (GOOD % ("1", '"hour":1e400')).encode(),
    "huge integer feature": (GOOD % ("1", '"hour":' + "9" * 5000)).encode(),
    "huge integer category": (GOOD % ("1", '"device":' + "9" * 5000)).encode(),
    "huge number in a vector": (
        GOOD % ("1", '"taste":[1e308,' + "9" * 400 + "]")
    ).encode(),
    "minus zero feature": (GOOD % ("1", '"hour":-0.0')).encode(),
    "nested feature": (GOOD % ("1", '"device":{"a":{"b":[]}}')).encode(),
    "deep array": b"[" * 10_000 + b"]" * 10_000,
    "deep object": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "deep feature": (GOOD % ("1", '"seen":' + "[" * 9_000 + "]" * 9_000)).encode(),
    "duplicate keys": b'{"request_id":"a","request_id":"b","candidates":[]}',
    "duplicate candidates key": (GOOD % ("1", "")).encode()[:-1] + b',"candidates":1}',
    "long text": (GOOD % ("1", '"query":"' + "x" * 5_000 + '"')).encode(),
    "10,000 ads": json.dumps(
        {
            "request_id": "q",
            "candidates": [{"ad_id": str(n), "bid_micros": 1} for n in range(10_000)],
        }
    ).encode(),
    "url as a feature": (GOOD % ("1", '"image":"file:///etc/passwd"')).encode(),
    "html in a key": (GOOD % ("1", '"<script>":1')).encode(),
    "far past": b'{"request_id":"q","request_ts":"0001-01-01T00:00:00+23:59",'
    b'"candidates":[{"ad_id":"hat","bid_micros":1}]}',
    "time as a number": b'{"request_id":"q","request_ts":1e300,'
    b'"candidates":[{"ad_id":"hat","bid_micros":1}]}',
    "prototype": (GOOD % ("1", '"__proto__":{},"__class__":1')).encode(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_body_can_crash_the_service(make_service, name):
    response = make_service().send(HOSTILE[name])
    assert response.status_code in (200, 413, 422)
    assert response.json()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
@pytest.mark.parametrize(
    "path", ["/", "/v1/decide", "/healthz", "/metrics", "/docs", "/openapi.json", "/x"]
)
def test_no_route_crashes_on_any_method(make_service, method, path):
    response = make_service().send(b"\xff{", path=path, method=method)
    assert response.status_code < 500


def test_refusals_do_not_repeat_what_was_sent(make_service, page_view):
    response = make_service().send(_with(page_view, user_id=["secret-value"]))
    assert response.status_code == 422
    assert "secret-value" not in response.text


def test_the_description_names_the_body_and_the_answer(make_service):
    described = make_service().send(None, path="/openapi.json", method="GET").json()

    schemas = described["components"]["schemas"]
    assert {"DecideRequest", "AskedCandidate", "DecideAnswer"} <= set(schemas)
    assert schemas["DecideRequest"]["additionalProperties"] is False


def test_the_docs_page_loads_nothing_from_elsewhere(make_service):
    page = make_service().send(None, path="/docs", method="GET").text
    assert "/v1/decide" in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_docs_page_starts_from_a_request_that_can_be_answered(make_service):
    service = make_service()
    page = service.send(None, path="/docs", method="GET").text
    example = page.partition("<textarea id=body>")[2].partition("</textarea>")[0]

    answer = service.send(json.loads(html.unescape(example))).json()

    assert answer["rejected"] == []
    assert answer["placements"]
