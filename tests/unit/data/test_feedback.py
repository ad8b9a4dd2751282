"""Shown decisions and their clicks are impressions."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cacs_ray.data.feedback import (
    ClickCounts,
    count_clicks,
    count_repeats,
    join_feedback,
    read_table,
)
from cacs_ray.errors import InputError
from cacs_ray.schema import CLICKS, DECISIONS, IMPRESSIONS

NOON = datetime(2024, 1, 10, 12, tzinfo=UTC)
HOUR_S = 3600
DECISION = {
    "request_id": "r1",
    "request_ts": NOON,
    "ad_id": "hat",
    "creative_id": "wool",
    "candidate_creative_ids": ["wool", "felt"],
    "propensity": 0.5,
    "pctr": 0.1,
    "bid_micros": 7,
    "ecpm_micros": 700.0,
    "slot": 0,
    "policy": "cacs",
    "release": "1",
    "is_fallback": False,
    "device": "phone",
}


def decisions(*changes) -> pa.Table:
    schema = pa.schema([*DECISIONS, ("device", pa.string())])
    return pa.Table.from_pylist([DECISION | change for change in changes], schema)


def clicks(*after_s, request="r1", ad="hat") -> pa.Table:
    rows = [
        {
            "request_id": request,
            "ad_id": ad,
            "click_ts": NOON + timedelta(seconds=seconds),
        }
        for seconds in after_s
    ]
    return pa.Table.from_pylist(rows, CLICKS)


def test_only_what_was_shown_is_an_impression():
    shown = join_feedback(
        decisions({}, {"ad_id": "shoe", "slot": None}, {"ad_id": "sock", "slot": 1}),
        clicks(5),
        attribution_window_s=HOUR_S,
    )
    assert shown["ad_id"].to_pylist() == ["hat", "sock"]
    assert shown["is_clicked"].to_pylist() == [True, False]
    assert shown.schema.names == [*IMPRESSIONS.names, "device"]
    assert shown.schema.field("candidate_creative_ids").type == pa.list_(pa.string())
    assert shown["device"].to_pylist() == ["phone", "phone"]


def test_a_request_that_was_sent_twice_counts_once():
    """A client that gets no answer asks again; the log holds both decisions."""
    log = decisions({}, {"ad_id": "sock", "slot": 1}, {"pctr": 0.2}, {"slot": None})
    shown = join_feedback(log, clicks(5), attribution_window_s=HOUR_S)

    assert shown["ad_id"].to_pylist() == ["hat", "sock"]
    assert shown["is_clicked"].to_pylist() == [True, False]
    assert count_repeats(log) == 1
    assert count_clicks(log, clicks(5), attribution_window_s=HOUR_S).attributed == 1


@pytest.mark.parametrize(
    ("seconds", "is_clicked", "became"),
    [
        (0, True, "attributed"),
        (HOUR_S - 1e-6, True, "attributed"),
        (HOUR_S, False, "late"),
        (-1e-6, False, "too_early"),
    ],
)
def test_a_click_counts_inside_its_window(seconds, is_clicked, became):
    given = decisions({}), clicks(seconds)
    joined = join_feedback(*given, attribution_window_s=HOUR_S)
    assert joined["is_clicked"].to_pylist() == [is_clicked]
    counts = count_clicks(*given, attribution_window_s=HOUR_S)
    assert counts == ClickCounts(**dict.fromkeys(ClickCounts.model_fields, 0)).override(
        {became: 1}
    )


def test_every_click_is_counted_once():
    shown = decisions({}, {"ad_id": "shoe", "slot": None})
    of_unshown, of_unknown = clicks(5, ad="shoe"), clicks(5, 6, request="r9")
    without_ad = clicks(5, ad=None)
    all_clicks = pa.concat_tables(
        [clicks(9, 5, 2 * HOUR_S, -3), of_unshown, of_unknown, without_ad]
    )
    counts = count_clicks(shown, all_clicks, attribution_window_s=HOUR_S)
    assert counts == ClickCounts(
        attributed=1, duplicate=1, late=1, too_early=1, unknown=1 + 2 + 1
    )
    assert sum(counts.model_dump().values()) == all_clicks.num_rows


def test_a_click_of_another_ad_of_the_request_is_not_shared():
    joined = join_feedback(
        decisions({}, {"ad_id": "sock"}), clicks(5, ad="sock"), attribution_window_s=9
    )
    assert joined["is_clicked"].to_pylist() == [False, True]


def test_no_click_is_no_mistake():
    joined = join_feedback(decisions({}), clicks(), attribution_window_s=HOUR_S)
    assert joined["is_clicked"].to_pylist() == [False]
    assert joined["weight"].to_pylist() == [None]


@pytest.mark.parametrize("window", [0, -1, float("nan")])
def test_the_window_is_positive(window):
    with pytest.raises(ValueError, match="positive"):
        join_feedback(decisions({}), clicks(1), attribution_window_s=window)


def test_logs_come_back_from_files_and_damage_is_told(tmp_path):
    pq.write_table(decisions({}, {"ad_id": "sock"}), tmp_path / "decisions.parquet")
    (tmp_path / "clicks.csv").write_text(
        "request_id,ad_id,click_ts\nr1,hat,2024-01-10T12:00:05Z\n"
    )
    shown = read_table(str(tmp_path / "decisions.parquet"), DECISIONS)
    clicked = read_table(str(tmp_path / "clicks.csv"), CLICKS)
    joined = join_feedback(shown, clicked, attribution_window_s=9)
    assert joined["is_clicked"].to_pylist() == [True, False]
    assert joined["device"].to_pylist() == ["phone", "phone"]
    (tmp_path / "clicks.csv").write_text("request_id,ad_id,click_ts\nr1,hat,soon\n")
    with pytest.raises(InputError, match=r"clicks\.csv: row 0: .*\[wrong_type\]"):
        read_table(str(tmp_path / "clicks.csv"), CLICKS)


def logged(place, *columns):
    """Write one file of decisions for each extra column."""
    for number, (name, column) in enumerate(columns):
        table = decisions({}).append_column(name, column)
        pq.write_table(table, place / f"part-{number}.parquet")
    return str(place)


def test_a_request_column_of_two_releases_gets_the_wider_type(tmp_path):
    price = "max_price"
    place = logged(tmp_path, (price, pa.array([3])), (price, pa.array([2.5])))
    read = read_table(place, DECISIONS)
    assert read.schema.field(price).type == pa.float64()
    assert read[price].to_pylist() == [3.0, 2.5]


def test_a_request_column_that_one_release_did_not_have_is_missing_there(tmp_path):
    place = logged(tmp_path, ("page", pa.array(["home"])), ("age", pa.array([30])))
    read = read_table(place, DECISIONS)
    assert read["page"].to_pylist() == ["home", None]
    assert read["age"].to_pylist() == [None, 30]


def test_a_request_column_of_two_kinds_is_named_with_its_file(tmp_path):
    place = logged(tmp_path, ("page", pa.array(["home"])), ("page", pa.array([7])))
    with pytest.raises(InputError) as caught:
        read_table(place, DECISIONS)
    assert caught.value.source.endswith("part-1.parquet")
    assert caught.value.field == "page"
    assert caught.value.rule == "same_type_in_all_files"
    assert "int64 here, string in other files" in str(caught.value)


def test_a_number_that_the_wider_type_cannot_hold_is_named_with_its_file(tmp_path):
    too_long = pa.array([2**60 + 1])
    place = logged(tmp_path, ("age", pa.array([30.5])), ("age", too_long))
    with pytest.raises(InputError) as caught:
        read_table(place, DECISIONS)
    assert caught.value.source.endswith("part-1.parquet")
    assert (caught.value.field, caught.value.rule) == ("age", "same_type_in_all_files")
    assert str(2**60 + 1) in str(caught.value)
