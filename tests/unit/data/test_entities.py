"""Creatives, ads and users: one row an id, bad rows kept apart."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cacs_ray.data.dataset import read_dataset
from cacs_ray.data.entities import read_entities
from cacs_ray.errors import InputError

HAT = {"ad_id": "hat", "price": 9.5}
SHOE = {"ad_id": "shoe", "price": 30.0}
WOOL = {"creative_id": "wool", "ad_id": "hat", "look": [0.1, 0.2]}


def read(root, tmp_path):
    rejects = tmp_path / "rejects"
    rejects.mkdir()
    entities = read_entities(read_dataset(root), rejects)
    rejected = {
        path.stem: pq.read_table(path).to_pylist() for path in rejects.iterdir()
    }
    for name, counts in entities.counts.items():
        assert counts.accepted + counts.rejected == counts.read
        assert counts.accepted == getattr(entities, name).num_rows
    return entities, rejected


def test_good_tables_come_whole(write_log, tmp_path):
    entities, rejected = read(write_log(), tmp_path)
    assert entities.creatives["creative_id"].to_pylist() == ["wool", "felt", "blue"]
    assert entities.ads.column_names == ["ad_id", "price"]
    assert entities.users["user_id"].to_pylist() == ["u1", "u2"]
    assert rejected == {}


@pytest.mark.parametrize(
    ("table", "rows", "rule"),
    [
        ("ads", [HAT, SHOE, HAT | {"price": 1.0}], "duplicate_entity"),
        ("ads", [HAT, SHOE, {"ad_id": None, "price": 1.0}], "missing_required"),
        (
            "ads",
            [HAT, SHOE, {"ad_id": "c", "price": float("inf")}],
            "number_not_finite",
        ),
        ("creatives", [WOOL, WOOL], "duplicate_entity"),
        ("creatives", [WOOL, WOOL | {"creative_id": "b", "ad_id": "x"}], "unknown_ad"),
        (
            "creatives",
            [WOOL, WOOL | {"creative_id": "b", "look": [1.0]}],
            "vector_wrong_size",
        ),
        (
            "creatives",
            [WOOL, WOOL | {"creative_id": "b", "look": [1.0, float("nan")]}],
            "vector_not_finite",
        ),
        (
            "creatives",
            [
                WOOL,
                WOOL
                | {
                    "creative_id": "b",
                    "live_from_ts": "2024-01-02",
                    "live_until_ts": "2024-01-01",
                },
            ],
            "bad_live_window",
        ),
        (
            "creatives",
            [WOOL, WOOL | {"creative_id": "b", "live_from_ts": "soon"}],
            "wrong_type",
        ),
        ("users", [{"user_id": "u"}, {"user_id": "u"}], "duplicate_entity"),
    ],
)
def test_the_last_row_is_rejected_by_its_rule(write_log, tmp_path, table, rows, rule):
    if table == "creatives":
        columns = {name: None for row in rows for name in row}
        rows = [columns | row for row in rows]
    entities, rejected = read(write_log(**{table: rows}), tmp_path)
    (row,) = rejected[f"{table}-00000"]
    assert row["rule"] == rule
    assert row["row_number"] == len(rows) - 1
    assert row["source_file"].endswith(f"{table}.parquet")
    assert getattr(entities, table).num_rows == len(rows) - 1
    assert entities.counts[table].rejected_by_rule == {rule: 1}


def test_without_users_table_there_are_no_users(write_log, tmp_path):
    tables = {name: f"{name}.parquet" for name in ("impressions", "creatives", "ads")}
    entities, _ = read(write_log(description={"tables": tables}), tmp_path)
    assert entities.users.num_rows == 0
    assert entities.users.column_names == ["user_id"]


def test_a_table_may_be_csv_with_vectors_as_json(write_log, tmp_path):
    write_log(
        description={
            "tables": {
                "impressions": "impressions.parquet",
                "creatives": "creatives.csv",
                "ads": "ads.jsonl",
                "users": "users.parquet",
            }
        }
    )
    (write_log.root / "creatives.csv").write_text(
        'creative_id,ad_id,look\nwool,hat,"[0.5, 1]"\nfelt,hat,\nsilk,hat,"[0.5"\n'
    )
    (write_log.root / "ads.jsonl").write_text('{"ad_id": "hat", "price": 9}\n')
    entities, rejected = read(write_log.root, tmp_path)
    assert entities.creatives["look"].to_pylist() == [[0.5, 1.0], None]
    assert [row["rule"] for row in rejected["creatives-00000"]] == ["wrong_type"]
    assert entities.ads.to_pylist() == [{"ad_id": "hat", "price": 9.0}]


def test_a_second_file_is_checked_like_the_first(write_log, tmp_path):
    write_log(
        description={
            "tables": {
                "impressions": "impressions.parquet",
                "creatives": "creatives.parquet",
                "ads": "ads",
                "users": "users.parquet",
            }
        }
    )
    folder = write_log.root / "ads"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist([HAT]), folder / "a.parquet")
    pq.write_table(pa.Table.from_pylist([{"ad_id": "shoe"}]), folder / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet.*no column 'price'"):
        read(write_log.root, tmp_path)
