"""Each rule rejects its row and lets the next one pass."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from cacs_ray.data import rules
from cacs_ray.data.rules import (
    IMPRESSION_RULES,
    ImpressionRows,
    KnownEntities,
    bad_live_window,
    duplicate_entity,
    first_broken,
    impression_masks,
    rejected_rows,
)
from cacs_ray.schema import ADS, CREATIVES, IMPRESSIONS, ROW_RULES

NOON = datetime(2024, 1, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MICRO = timedelta(microseconds=1)
GOOD = {
    "request_id": "r1",
    "request_ts": NOON,
    "ad_id": "hat",
    "creative_id": "wool",
    "slot": 0,
    "is_clicked": False,
}
KNOWN = KnownEntities.of(
    pa.Table.from_pylist([{"ad_id": "hat"}, {"ad_id": "shoe"}], ADS),
    pa.Table.from_pylist(
        [
            {"creative_id": "wool", "ad_id": "hat"},
            {
                "creative_id": "felt",
                "ad_id": "hat",
                "live_from_ts": NOON,
                "live_until_ts": NOON + HOUR,
            },
            {"creative_id": "blue", "ad_id": "shoe"},
        ],
        CREATIVES,
    ),
)
WITH_LOOK = pa.schema(
    [*IMPRESSIONS, pa.field("look", pa.list_(pa.float32())), ("price", pa.float64())]
)


def broken_rules(**changes) -> list[str]:
    """All rules that a good row breaks once it is changed like this."""
    table = pa.Table.from_pylist([GOOD | changes], WITH_LOOK)
    masks = impression_masks(ImpressionRows.of(table, KNOWN), {"look": 2})
    return [name for name, mask in masks.items() if mask[0]]


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        ("bad_slot", {"slot": -1}, {"slot": 0}),
        ("bad_propensity", {"propensity": 0.0}, {"propensity": 1e-9}),
        ("bad_propensity", {"propensity": 1.0001}, {"propensity": 1.0}),
        ("bad_propensity", {"propensity": -0.5}, {"propensity": None}),
        ("bad_propensity", {"propensity": float("nan")}, {"propensity": 0.5}),
        ("bad_bid", {"bid_micros": 0}, {"bid_micros": 1}),
        ("bad_bid", {"bid_micros": -5}, {"bid_micros": None}),
        ("bad_weight", {"weight": 0.0}, {"weight": 0.5}),
        ("bad_weight", {"weight": float("inf")}, {"weight": 1e9}),
        ("bad_weight", {"weight": float("nan")}, {"weight": None}),
        (
            "creative_of_other_ad",
            {"creative_id": "blue"},
            {"creative_id": "blue", "ad_id": "shoe"},
        ),
        (
            "creative_of_other_ad",
            {"candidate_creative_ids": ["wool", "blue"]},
            {"candidate_creative_ids": ["wool", "felt"]},
        ),
        (
            "unknown_creative",
            {"candidate_creative_ids": ["wool", "silk"]},
            {"candidate_creative_ids": None},
        ),
        (
            "unknown_creative",
            {"candidate_creative_ids": ["wool", None]},
            {"candidate_creative_ids": ["wool"]},
        ),
        (
            "shown_not_candidate",
            {"candidate_creative_ids": ["felt"]},
            {"candidate_creative_ids": ["felt", "wool"]},
        ),
        (
            "shown_not_candidate",
            {"candidate_creative_ids": []},
            {"candidate_creative_ids": ["wool"]},
        ),
        (
            "creative_not_live",
            {"creative_id": "felt", "request_ts": NOON - MICRO},
            {"creative_id": "felt", "request_ts": NOON},
        ),
        (
            "creative_not_live",
            {"creative_id": "felt", "request_ts": NOON + HOUR},
            {"creative_id": "felt", "request_ts": NOON + HOUR - MICRO},
        ),
        (
            "timestamp_out_of_range",
            {"request_ts": datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)},
            {"request_ts": datetime(2000, 1, 1, tzinfo=UTC)},
        ),
        (
            "timestamp_out_of_range",
            {"request_ts": datetime(2100, 1, 1, tzinfo=UTC)},
            {"request_ts": datetime(2099, 12, 31, tzinfo=UTC)},
        ),
        ("vector_wrong_size", {"look": [0.1]}, {"look": [0.1, 0.2]}),
        ("vector_wrong_size", {"look": [0.1, 0.2, 0.3]}, {"look": None}),
        ("vector_not_finite", {"look": [0.1, float("nan")]}, {"look": [0.1, -9.0]}),
        ("vector_not_finite", {"look": [float("inf"), 0.1]}, {"look": [0.0, 0.0]}),
        ("vector_not_finite", {"look": [None, 0.1]}, {"look": None}),
        ("number_not_finite", {"price": float("inf")}, {"price": 1.0}),
        ("number_not_finite", {"price": float("-inf")}, {"price": None}),
    ],
)
def test_a_rule_takes_its_row_and_no_other(rule, bad, good):
    assert broken_rules(**bad) == [rule]
    assert broken_rules(**good) == []


@pytest.mark.parametrize(
    ("rule", "bad"),
    [
        # An unknown id is also of no ad that could be compared, and the like.
        ("unknown_ad", {"ad_id": "sock"}),
        ("unknown_creative", {"creative_id": "silk"}),
    ],
)
def test_an_unknown_id_breaks_its_rule_first(rule, bad):
    assert broken_rules(**bad)[0] == rule
    assert broken_rules() == []


def test_an_unknown_user_is_welcome():
    assert broken_rules(user_id="nobody") == []
    assert broken_rules(user_id=None) == []


def test_every_rule_of_the_contract_has_its_place():
    assert IMPRESSION_RULES[: len(ROW_RULES)] == ROW_RULES


def test_a_row_gets_the_first_rule_it_breaks():
    masks = {
        "late": np.array([True, True, False]),
        "early": np.array([False, True, False]),
    }
    order = ("early", "late")
    assert first_broken(masks, order, 3).tolist() == [1, 0, -1]


def test_the_first_row_with_an_id_is_no_duplicate():
    ids = pa.chunked_array([["a", "b", None], ["a", None, "a"]])
    assert duplicate_entity(ids).tolist() == [False, False, False, True, False, True]


def test_a_life_must_begin_before_it_ends():
    rows = [
        {
            "creative_id": "a",
            "ad_id": "hat",
            "live_from_ts": start,
            "live_until_ts": end,
        }
        for start, end in [
            (NOON, NOON + MICRO),
            (NOON, NOON),
            (NOON + HOUR, NOON),
            (None, NOON),
            (NOON, None),
            (None, None),
        ]
    ]
    mask = bad_live_window(pa.Table.from_pylist(rows, CREATIVES))
    assert mask.tolist() == [False, True, True, False, False, False]


def test_a_rejected_row_keeps_all_it_had():
    raw = pa.table({"a": ["x", "y"], "rule": ["mine", "yours"]})
    rejected = rejected_rows(
        raw, np.array([-1, 0]), ("bad_slot",), source="log.csv", first=10
    )
    assert rejected.to_pylist() == [
        {
            "a": "y",
            "rule_as_read": "yours",
            "rule": "bad_slot",
            rules.SOURCE_FILE: "log.csv",
            rules.ROW_NUMBER: 11,
        }
    ]


def test_an_empty_log_breaks_nothing():
    rows = ImpressionRows.of(WITH_LOOK.empty_table(), KNOWN)
    masks = impression_masks(rows, {"look": 2})
    assert all(len(mask) == 0 for mask in masks.values())


def test_no_known_creative_makes_all_unknown():
    nothing = KnownEntities.of(ADS.empty_table(), CREATIVES.empty_table())
    table = pa.Table.from_pylist([GOOD], WITH_LOOK)
    masks = impression_masks(ImpressionRows.of(table, nothing), {})
    assert masks["unknown_ad"][0]
    assert masks["unknown_creative"][0]
