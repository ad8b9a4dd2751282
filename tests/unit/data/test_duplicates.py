"""A key that stands twice is found, across files, and nothing else is."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cacs_ray.data.declaration import LayoutColumn
from cacs_ray.data.duplicates import find_duplicates, key_hashes
from cacs_ray.data.reading import list_files

LAYOUT = (
    LayoutColumn("request_id", "pvid", pa.string(), is_required=True),
    LayoutColumn("ad_id", "ad_id", pa.string(), is_required=True),
)


def found(tmp_path, *files, hashes=None):
    for number, keys in enumerate(files):
        table = pa.table(
            {"pvid": [r for r, _ in keys], "ad_id": [ad for _, ad in keys]},
            schema=pa.schema([("pvid", pa.string()), ("ad_id", pa.string())]),
        )
        pq.write_table(table, tmp_path / f"{number}.parquet")
    parts = list_files(str(tmp_path))
    if hashes is None:
        hashes = [
            key_hashes(pq.read_table(part.path).rename_columns(["request_id", "ad_id"]))
            for part in parts
        ]
    again = find_duplicates(parts, hashes, LAYOUT)
    return {file: rows.tolist() for file, rows in again.items()}


def test_unique_keys_are_left_alone(tmp_path):
    assert found(tmp_path, [("r1", "a"), ("r1", "b")], [("r2", "a"), ("a", "r1")]) == {}


def test_the_first_occurrence_in_file_order_is_kept(tmp_path):
    first = [("r1", "a"), ("r2", "a"), ("r1", "a")]
    second = [("r9", "a"), ("r2", "a"), ("r1", "a")]
    assert found(tmp_path, first, second) == {0: [2], 1: [1, 2]}


def test_equal_hashes_of_different_keys_are_no_duplicates(tmp_path):
    same = [np.array([7, 7, 7], dtype=np.uint64)]
    keys = [("r1", "a"), ("r2", "a"), ("r1", "a")]
    assert found(tmp_path, keys, hashes=same) == {0: [2]}


def test_an_empty_file_has_none(tmp_path):
    assert found(tmp_path, [], [("r1", "a"), ("r1", "a")]) == {1: [1]}


def test_row_numbers_are_those_of_the_file_and_not_of_a_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("cacs_ray.data.reading._BATCH_ROWS", 2)
    keys = [("r1", "a"), ("r2", "a"), ("r3", "a"), ("r4", "a"), ("r2", "a")]
    assert found(tmp_path, keys) == {0: [4]}
