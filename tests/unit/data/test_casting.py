"""A value becomes its contract type or null, and says which of the two."""

from datetime import UTC, date, datetime, timedelta, timezone

import pyarrow as pa
import pytest

from cacs_ray.data.casting import cast_column, cast_table
from cacs_ray.data.declaration import LayoutColumn
from cacs_ray.schema import TIMESTAMP

NOON = datetime(2024, 1, 10, 12, tzinfo=UTC)
NOON_S = 1_704_888_000
TEXTS, NUMBERS = pa.list_(pa.string()), pa.list_(pa.float32())


@pytest.mark.parametrize(
    ("given", "target", "expected"),
    [
        (["1", " 2.0 ", "abc", "", None], pa.int32(), [1, 2, None, None, None]),
        ([1.0, 1.5, float("inf"), None], pa.int64(), [1, None, None, None]),
        ([2**40, 3, None], pa.int32(), [None, 3, None]),
        ([True], pa.int32(), [None]),
        (["True", "0", "x", "1.0"], pa.bool_(), [True, False, None, True]),
        ([0, 1, 2], pa.bool_(), [False, True, None]),
        ([0.0, 1.0, 0.5], pa.bool_(), [False, True, None]),
        ([["a"]], pa.bool_(), [None]),
        (["1e-3", "x", "inf"], pa.float64(), [0.001, None, float("inf")]),
        ([1, 2], pa.float64(), [1.0, 2.0]),
        ([7, None], pa.string(), ["7", None]),
        ([7.0], pa.string(), ["7"]),
        ([b"a", b"\xff"], pa.string(), ["a", None]),
        ([{"a": 1}], pa.string(), [None]),
        ([[1, 2], None], TEXTS, [["1", "2"], None]),
        (['["a"]', "[1]", "{}", "["], TEXTS, [["a"], ["1"], None, None]),
        (["a"], pa.list_(pa.string()), [None]),
        ([[1, None]], NUMBERS, [[1.0, None]]),
        ([["1", "x"], ["2"]], NUMBERS, [None, [2.0]]),
        (["[1, 2.5]", "[[1]]"], NUMBERS, [[1.0, 2.5], None]),
        ([3.0], NUMBERS, [None]),
        ([None], NUMBERS, [None]),
    ],
)
def test_values_become_their_type_or_null(given, target, expected):
    assert cast_column(pa.array(given), target).to_pylist() == expected


@pytest.mark.parametrize(
    ("given", "unit", "expected"),
    [
        (pa.array([NOON_S]), "s", NOON),
        (pa.array([NOON_S * 1000]), "ms", NOON),
        (pa.array([NOON_S * 10**6]), "us", NOON),
        (pa.array([NOON_S * 10**9]), "ns", NOON),
        (pa.array([NOON_S], pa.uint64()), "s", NOON),
        (pa.array([NOON_S + 0.5]), "s", NOON + timedelta(seconds=0.5)),
        (pa.array([f"{NOON_S}"]), "s", NOON),
        (pa.array(["2024-01-10T12:00:00Z"]), None, NOON),
        (pa.array(["2024-01-10 12:00:00"]), "iso", NOON),
        (pa.array(["2024-01-10T14:00:00+02:00"]), None, NOON),
        (pa.array(["2024-01-10 12:00:00.5"]), None, NOON + timedelta(seconds=0.5)),
        (pa.array([NOON.replace(tzinfo=None)]), None, NOON),
        (pa.array([NOON.astimezone(timezone(timedelta(hours=3)))]), None, NOON),
        (pa.array([NOON], pa.timestamp("ns", "UTC")), None, NOON),
        (pa.array([date(2024, 1, 10)]), None, NOON.replace(hour=0)),
        (pa.array(["2024-02-30"]), None, None),
        (pa.array(["yesterday"]), None, None),
        (pa.array([NOON_S]), None, None),
        (pa.array([True]), None, None),
        (pa.array([float("inf")]), "s", None),
    ],
)
def test_times_are_read_in_utc(given, unit, expected):
    assert cast_column(given, TIMESTAMP, unit=unit).to_pylist() == [expected]


def test_a_bad_time_does_not_spoil_its_neighbours():
    given = pa.array(["2024-01-10", "x", "2024-01-10T12:00:00Z", None])
    midnight = NOON.replace(hour=0)
    assert cast_column(given, TIMESTAMP).to_pylist() == [midnight, None, NOON, None]


def test_a_time_too_large_for_us_stays_large():
    for values in (pa.array([2**62]), pa.array([1e300])):
        micros = cast_column(values, TIMESTAMP, unit="s").cast(pa.int64())
        assert micros[0].as_py() > 8e18


def test_pictures_stay_bytes_or_text():
    for values in (pa.array([b"\xff"]), pa.array(["a.png"])):
        assert cast_column(values, None).equals(values)


def test_a_table_says_which_rows_miss_or_fail():
    layout = (
        LayoutColumn("slot", "pos", pa.int32(), is_required=True),
        LayoutColumn("bid_micros", "bid", pa.int64()),
    )
    cast = cast_table(pa.table({"pos": ["1", "x", None], "extra": [1, 2, 3]}), layout)
    assert cast.table.to_pydict() == {
        "slot": [1, None, None],
        "bid_micros": [None, None, None],
    }
    assert cast.is_missing.tolist() == [False, False, True]
    assert cast.is_wrong_type.tolist() == [False, True, False]


def test_nan_is_null_but_for_the_doubles_of_the_contract():
    nan = float("nan")
    layout = (
        LayoutColumn("slot", "slot", pa.int32(), is_required=True),
        LayoutColumn("price", "price", pa.float64(), kind="number"),
        LayoutColumn("propensity", "propensity", pa.float64()),
    )
    raw = pa.table({name: [nan, 1.0] for name in ("slot", "price", "propensity")})
    cast = cast_table(raw, layout)
    assert cast.table["price"].to_pylist() == [None, 1.0]
    assert cast.table["propensity"].null_count == 0
    assert cast.is_missing.tolist() == [True, False]
    assert not cast.is_wrong_type.any()


def test_encodings_and_empty_columns_are_undone():
    layout = (LayoutColumn("ad_id", "ad", pa.string(), is_required=True),)
    for values in (
        pa.array(["a"]).dictionary_encode(),
        pa.array(["a"], pa.large_string()),
        pa.array(["a"], pa.string_view()),
    ):
        assert cast_table(pa.table({"ad": values}), layout).table[
            "ad_id"
        ].to_pylist() == ["a"]
    empty = pa.table({"ad": pa.chunked_array([], pa.string())})
    assert cast_table(empty, layout).table.num_rows == 0
