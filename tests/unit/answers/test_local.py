"""What a requests table may look like before anything is decided."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cacs_ray.answers.local import decide_file, read_requests, request_blocks
from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.errors import InputError


def test_files_whose_types_differ_are_read_as_text(tmp_path):
    pq.write_table(pa.table({"request_id": ["a"], "hour": [7]}), tmp_path / "1.parquet")
    pq.write_table(
        pa.table({"request_id": ["b"], "hour": ["noon"]}), tmp_path / "2.parquet"
    )
    assert read_requests(tmp_path)["hour"].to_pylist() == ["7", "noon"]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(["b", "a", "b"]),
        pa.array([2, 1, 2]),
        pa.array(["b", "a", "b"]).dictionary_encode(),
        pa.array([None, "a", None]),
    ],
    ids=lambda ids: str(ids.type),
)
def test_rows_of_one_request_are_put_together(ids):
    (block,) = request_blocks(pa.table({"request_id": ids, "row": [0, 1, 2]}))
    assert block["row"].to_pylist() == [0, 2, 1]


def test_decisions_do_not_replace_what_is_something_else(tmp_path):
    (tmp_path / "bundle").mkdir()
    with pytest.raises(InputError, match="'bundle' in it would be lost"):
        decide_file("none", "none", tmp_path, DecisionSettings())
    assert (tmp_path / "bundle").is_dir()
