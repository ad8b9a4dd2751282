"""What a requests table may look like before anything is decided."""

import signal
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cacs_ray.answers.local import (
    decide_file,
    decide_requests,
    read_requests,
    request_blocks,
)
from cacs_ray.decision.candidates import Decisions
from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.errors import InputError
from cacs_ray.features.catalogue import Catalogue


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


class FirstCreatives:
    """A predictor of one ad with two creatives; likes the first one."""

    bundle_id = "r1"
    fitted = SimpleNamespace(spec=SimpleNamespace(of=lambda _: ()))
    catalogue = Catalogue.from_tables(
        pa.table({"creative_id": ["wool", "straw"], "ad_id": ["hat", "hat"]}),
        pa.table({"ad_id": ["hat"]}),
    )

    def context(self, requests):
        return None

    def selector_scores(self, context, lists):
        return -lists.astype(np.float32)

    def pctr(self, context, creative_row):
        return np.full(len(creative_row), 0.1)


@pytest.fixture
def usual_ctrl_c():
    """The handler with which the event loop writes out what it returns."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_ctrl_c")
@pytest.mark.parametrize("policy", ["cacs", "parallel"])
def test_what_was_decided_is_not_written_out_on_the_way(monkeypatch, policy):
    """To write out the arrays of a block takes milliseconds, and nobody reads them."""
    written = []
    monkeypatch.setattr(Decisions, "__repr__", lambda _: written.append(1) or "")
    asked = pa.table(
        {
            "request_id": ["q1"],
            "request_ts": pa.array(
                [datetime(2026, 1, 1, tzinfo=UTC)], pa.timestamp("us", "UTC")
            ),
            "user_id": ["u1"],
            "ad_id": ["hat"],
            "bid_micros": [7],
        }
    )

    decisions, rejects = decide_requests(
        FirstCreatives(), asked, DecisionSettings(policy=policy)
    )

    assert decisions["creative_id"].to_pylist() == ["wool"]
    assert rejects.num_rows == 0
    assert written == []
