"""What encoding the rows of a log promises, without Ray."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cacs_ray.features.catalogue import Versions
from cacs_ray.features.rows import RowEncoder, read_shard, read_unknown, write_shard
from cacs_ray.features.shards import is_current
from cacs_ray.features.spec import FeatureSpec, FieldSpec
from cacs_ray.features.vocabulary import Vocabulary
from cacs_ray.features.windows import (
    Windows,
    make_window,
    number_requests,
    open_window,
    place,
    survey,
)
from cacs_ray.ids import IdIndex
from cacs_ray.schema import IMPRESSIONS

DEVICES = Vocabulary("request.device", pa.array(["phone"]), np.array([1.0]))
DEVICE = FieldSpec(
    name="device",
    of="request",
    kind="category",
    column="device",
    vocabulary=DEVICES.name,
)


def encoder(*, users=("ann",), devices=DEVICES):
    entities = {"user": users, "ad": ("hat",), "creative": ("felt", "wool", "silk")}
    return RowEncoder(
        spec=FeatureSpec(fields=(DEVICE,), vocabularies=(devices.spec,)),
        vocabularies={devices.name: devices},
        entities={s: IdIndex(pa.array(ids)) for s, ids in entities.items()},
        content=None,
    )


def impressions(*rows):
    schema = pa.schema([*IMPRESSIONS, ("device", pa.string())])
    common = {"ad_id": "hat", "slot": 0, "is_clicked": False}
    filled = [{name: None for name in schema.names} | common | row for row in rows]
    return pa.Table.from_pylist(
        filled, pa.schema([f.with_nullable(True) for f in schema])
    )


def row(ts, creative="felt", *, request="r", given=None, **more):
    return {
        "request_id": request,
        "request_ts": ts,
        "creative_id": creative,
        "candidate_creative_ids": given,
    } | more


@pytest.fixture
def shard(tmp_path):
    """Writes a log of some rows and encodes it."""

    def write(*rows, using=None):
        pq.write_table(impressions(*rows), tmp_path / "part.parquet")
        path = tmp_path / "part.arrow"
        write_shard(path, str(tmp_path / "part.parquet"), using or encoder())
        return path

    return write


def test_a_stated_list_is_a_set_in_the_order_of_the_catalogue(shard):
    path = shard(row(0, given=["wool", "felt", "wool"]), row(1), row(2, given=["silk"]))
    (table,) = read_shard(path)
    assert table["given"].to_pylist() == [[1, 2], None, [3]]


def test_a_shard_lasts_until_what_it_could_not_encode_is_known(shard):
    path = shard(
        row(0, user_id="ann", device="phone"), row(1, user_id="bob", device="watch")
    )
    assert read_unknown(path).rows() == [
        ("request.device", "watch"),
        ("user", "bob"),
    ]
    other = Vocabulary(DEVICES.name, pa.array(["phone", "desk"]), np.ones(2))
    assert is_current(path, encoder(devices=other))
    watch = Vocabulary(DEVICES.name, pa.array(["phone", "watch"]), np.ones(2))
    assert not is_current(path, encoder(devices=watch))
    assert not is_current(path, encoder(users=("ann", "bob")))


def test_each_row_comes_to_its_window_in_the_order_of_the_log(shard, tmp_path):
    """Felt and wool were live at first; silk joined them at moment 5."""
    path = shard(
        row(7, "silk", request="b"),
        row(1, "wool", request="a"),
        row(6, "wool", request="b", given=["silk", "wool"]),
        row(2, "felt", request="c", given=["felt", "wool"]),
        row(99, "felt"),
    )
    versions = Versions(
        moments=np.array([5]),
        keys=np.array([0, 2, 3]),
        lists=np.array([[0, 0, 0], [1, 2, 0], [1, 2, 3]], np.int32),
    )
    bounds = {"train": (0, 5), "test": (5, 10)}
    windows = Windows(bounds, versions, encoder().request_columns)
    rows = survey(path, windows)
    assert rows.counts == {"train": 2, "test": 2}
    # What the log states and the catalogue says too is nothing new.
    assert rows.stated == (np.array([2, 3], np.int32).tobytes(),)
    for name, first in (("train", 1), ("test", 0)):
        make_window(tmp_path / name, 2 + first, windows)
    place(path, tmp_path, {"train": 1, "test": 0}, windows, {rows.stated[0]: 0})
    for name in bounds:
        number_requests(tmp_path / name)
    train, test = (open_window(tmp_path / name) for name in ("train", "test"))
    assert test["request_ts"].tolist() == [7, 6]
    assert test["list_row"].tolist() == [2, 3]
    assert test["shown_index"].tolist() == [2, 0]
    assert test["request_row"].tolist() == [0, 0]
    # The first row belongs to another shard, which is not written here.
    assert train["request_ts"].tolist() == [0, 1, 2]
    assert train["list_row"].tolist() == [0, 1, 1]
    assert train["shown_index"].tolist() == [0, 1, 0]
    assert train["request_row"].tolist() == [0, 1, 2]


def test_requests_that_are_not_side_by_side_are_one(tmp_path):
    hashes = np.array([9, 9, 4, 9, 7, 4], "<u8")
    hashes.tofile(tmp_path / "request_hash.bin")
    number_requests(tmp_path)
    numbers = np.fromfile(tmp_path / "request_row.bin", "<i4")
    assert numbers.tolist() == [0, 0, 1, 0, 2, 1]
