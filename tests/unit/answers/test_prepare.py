"""What asking promises: each bad row is named, the good ones are looked up."""

import numpy as np
import pyarrow as pa
import pytest

from cacs_ray.answers.prepare import prepare_requests
from cacs_ray.errors import InputError
from cacs_ray.features.catalogue import Catalogue
from cacs_ray.schema import TIMESTAMP

SHOP = Catalogue.from_tables(
    pa.table(
        {
            "creative_id": ["felt", "wool", "blue", "old"],
            "ad_id": ["hat", "hat", "shoe", "sock"],
            "live_until_ts": pa.array([None, None, None, 5], TIMESTAMP),
        }
    ),
    pa.table({"ad_id": ["hat", "shoe", "sock"]}),
)


def rows(*given, **columns):
    """Requests at moment 10, by default one good row per given change."""
    good = {"request_id": "r1", "ad_id": "hat", "bid_micros": 100, "user_id": "u"}
    merged = [{**good, **change} for change in given]
    if any(isinstance(row["bid_micros"], str) for row in merged):
        # As a text file gives it: one bad cell makes the whole column text.
        merged = [{**row, "bid_micros": str(row["bid_micros"])} for row in merged]
    table = pa.Table.from_pylist(merged)
    ts = pa.array([10] * len(merged), TIMESTAMP)
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table.append_column("request_ts", ts)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"request_id": None}, "missing_required"),
        ({"bid_micros": "much"}, "wrong_type"),
        ({"bid_micros": 0}, "bad_bid"),
        ({"bid_micros": -3}, "bad_bid"),
        ({"ad_id": "glove"}, "unknown_ad"),
        ({"ad_id": "sock"}, "creative_not_live"),
        ({"creative_ids": ["silk"]}, "unknown_creative"),
        ({"creative_ids": ["blue"]}, "creative_of_other_ad"),
        ({"creative_ids": []}, "creative_not_live"),
        ({"pinned_creative_id": "silk"}, "unknown_creative"),
        ({"pinned_creative_id": "blue"}, "creative_of_other_ad"),
    ],
)
def test_a_bad_row_is_rejected_by_name_and_the_good_one_stays(change, rule):
    prepared = prepare_requests(SHOP, rows(change, {"ad_id": "shoe"}))
    assert prepared.rejects["rule"].to_pylist() == [rule]
    assert prepared.candidates.ad_ids == ("shoe",)


def test_the_second_row_of_one_candidate_is_rejected():
    prepared = prepare_requests(SHOP, rows({}, {}))
    assert prepared.rejects["rule"].to_pylist() == ["duplicate_candidate"]


def test_candidates_are_the_live_creatives_of_the_ad():
    prepared = prepare_requests(SHOP, rows({}, {"ad_id": "shoe"}))
    assert prepared.candidates.creative_lists.tolist() == [[1, 2], [3, 0]]
    assert prepared.candidates.pinned.tolist() == [0, 0]


def test_a_restriction_and_a_pin_are_kept():
    asked = rows({"creative_ids": ["wool"], "pinned_creative_id": "wool"})
    prepared = prepare_requests(SHOP, asked)
    assert prepared.candidates.creative_lists.tolist() == [[2]]
    assert prepared.candidates.pinned.tolist() == [2]


def test_a_restriction_is_that_of_its_own_row():
    """Whoever else asks for the ad gets all of it."""
    asked = rows(
        {"creative_ids": ["wool"]},
        {"request_id": "r2"},
        {"request_id": "r3", "creative_ids": ["wool", "felt"]},
        {"request_id": "r4", "creative_ids": ["wool", "silk"]},
    )
    prepared = prepare_requests(SHOP, asked)
    assert prepared.candidates.creative_lists.tolist() == [[2, 0], [1, 2], [1, 2]]
    assert prepared.rejects["rule"].to_pylist() == ["unknown_creative"]


def test_rows_of_one_request_come_together():
    asked = rows(
        {},
        {"request_id": "r2"},
        {"ad_id": "shoe"},
        {"request_id": "r2", "ad_id": "shoe"},
    )
    candidates = prepare_requests(SHOP, asked).candidates
    assert candidates.request_ids == ("r1", "r2")
    assert candidates.request_index.tolist() == [0, 0, 1, 1]
    assert candidates.ad_ids == ("hat", "shoe", "hat", "shoe")


def test_a_missing_column_is_named():
    with pytest.raises(InputError, match=r"bid_micros.*missing_required"):
        prepare_requests(SHOP, rows({}).drop_columns(["bid_micros"]))


def test_no_rows_give_no_candidates():
    prepared = prepare_requests(SHOP, rows({}).slice(0, 0))
    assert prepared.candidates.request_ids == ()
    assert np.shape(prepared.candidates.creative_lists) == (0, 1)
