"""A whole log: nothing is lost, nothing is silent, nothing is half-written."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cacs_ray.data.dataset import FeatureDeclaration, read_dataset, write_dataset
from cacs_ray.data.logs import ValidatedLog, validate_log
from cacs_ray.errors import InputError
from cacs_ray.schema import IMPRESSIONS

pytestmark = pytest.mark.usefixtures("ray_local")

NOON = datetime(2024, 1, 10, 12, tzinfo=UTC)
FEATURES = [
    FeatureDeclaration(name="user_id", of="user", kind="id"),
    FeatureDeclaration(name="device", of="request", kind="category"),
]


def row(request: int, **changes):
    return {
        "request_id": f"r{request}",
        "request_ts": NOON,
        "user_id": "u1",
        "ad_id": "hat",
        "creative_id": "wool",
        "slot": 0,
        "is_clicked": request % 2 == 0,
        "weight": 2.0,
        "device": "phone",
        "undeclared": request,
    } | changes


def write_log(root, *files):
    """Write a log of these files (rows, or bytes as they are) and its catalogue."""
    (root / "impressions").mkdir(parents=True)
    for number, content in enumerate(files):
        path = root / "impressions" / f"{number}.parquet"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pq.write_table(pa.Table.from_pylist(content), path)
    pq.write_table(pa.table({"ad_id": ["hat"]}), root / "ads.parquet")
    pq.write_table(
        pa.table({"creative_id": ["wool", "wool"], "ad_id": ["hat", "hat"]}),
        root / "creatives.parquet",
    )
    tables = {name: f"{name}.parquet" for name in ("creatives", "ads")}
    write_dataset(
        root, tables={"impressions": "impressions", **tables}, features=FEATURES
    )
    return read_dataset(root)


def test_every_row_is_accepted_or_rejected_with_its_rule(tmp_path):
    dataset = write_log(
        tmp_path / "log",
        [row(1), row(2, slot=-1), row(3, ad_id="sock"), row(4, ad_id=None)],
        [row(5, user_id=None), row(1), row(6, user_id="u2"), row(6, slot=-1)],
    )
    log = validate_log(dataset, tmp_path / "out", max_reject_share=0.7)
    rows = log.summary.rows
    assert (rows.read, rows.accepted, rows.rejected) == (8, 3, 5)
    assert rows.rejected_by_rule == {
        "bad_slot": 1,
        "unknown_ad": 1,
        "missing_required": 1,
        "duplicate_impression": 2,
    }
    assert log.summary.weight == 3 * 2.0
    assert log.summary.clicks == 1 * 2.0
    assert log.summary.entities["creatives"].rejected_by_rule == {"duplicate_entity": 1}
    accepted = pa.concat_tables(pq.read_table(path) for path in log.impression_files)
    assert accepted["request_id"].to_pylist() == ["r1", "r5", "r6"]
    assert accepted.schema.names == [*IMPRESSIONS.names, "device"]
    assert not accepted.schema.field("request_id").nullable
    assert [path.name for path in log.impression_files] == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    rejected = pl.read_parquet(tmp_path / "out" / "rejects" / "impressions-*.parquet")
    assert rejected.select("undeclared", "rule", "row_number").rows() == [
        (2, "bad_slot", 1),
        (3, "unknown_ad", 2),
        (4, "missing_required", 3),
        (1, "duplicate_impression", 1),
        (6, "duplicate_impression", 3),
    ]
    assert rejected["source_file"][3].endswith("1.parquet")
    # No users table, but the id is declared: the users are those of the log.
    assert log.users["user_id"].to_pylist() == ["u1", "u2"]
    assert ValidatedLog.open(tmp_path / "out" / "validated").summary == log.summary


def test_too_many_rejects_stop_with_a_report_and_no_log(tmp_path):
    dataset = write_log(tmp_path / "log", [row(1), row(2, slot=-1), row(3), row(4)])
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"1 of 4 rows.*25\.0%.*by bad_slot \(1\)"):
        validate_log(dataset, out, max_reject_share=0.24)
    assert sorted(path.name for path in out.iterdir()) == ["rejects"]
    assert sorted(path.name for path in (out / "rejects").iterdir()) == [
        "creatives-00000.parquet",
        "impressions-00000.parquet",
        "summary.json",
    ]
    assert validate_log(dataset, out, max_reject_share=0.25).summary.rows.accepted == 3


def test_a_log_without_rows_is_empty(tmp_path):
    empty = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([row(1)]).slice(1), empty)
    dataset = write_log(tmp_path / "log", empty.getvalue().to_pybytes())
    with pytest.raises(InputError, match=r"empty log.*\[empty_log\]"):
        validate_log(dataset, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_a_log_that_cannot_be_read_leaves_an_older_one_alone(tmp_path):
    dataset = write_log(tmp_path / "log", [row(1), *[row(i) for i in range(2, 40)]])
    out = tmp_path / "out"
    validate_log(dataset, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    (tmp_path / "log" / "impressions" / "1.parquet").write_bytes(b"torn")
    with pytest.raises(InputError, match="1 of 2 files refused"):
        validate_log(dataset, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("num_torn", [10, 12])
def test_more_files_than_a_line_can_name_are_listed_before_it(
    tmp_path, caplog, num_torn
):
    dataset = write_log(tmp_path / "log", [row(1)], *[b"torn"] * num_torn)
    with pytest.raises(InputError, match=f"{num_torn} of {num_torn + 1}") as caught:
        validate_log(dataset, tmp_path / "out")
    listed = [m for m in caplog.messages if "cannot be read" in m]
    assert len(listed) == num_torn - 10
    assert str(caught.value).count("cannot be read") == 10


def test_all_unreadable_files_are_listed(tmp_path):
    torn = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([row(1)]), torn)
    without_slot = [{k: v for k, v in row(2).items() if k != "slot"}]
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((1, 2)))
    extension = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_pylist([row(3)]).append_column("tensor", tensor), extension
    )
    dataset = write_log(
        tmp_path / "log",
        [row(4)],
        torn.getvalue().to_pybytes()[:-30],
        without_slot,
        extension.getvalue().to_pybytes(),
    )
    with pytest.raises(InputError) as caught:
        validate_log(dataset, tmp_path / "out")
    message = str(caught.value)
    assert "3 of 4 files refused" in message
    assert "1.parquet: cannot be read" in message
    assert "2.parquet: impressions.slot: no column 'slot'" in message
    assert "3.parquet: holds the Arrow extension type" in message
    assert "arrow.fixed_shape_tensor" in message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_rays_own_tensor_type_is_refused(tmp_path):
    from ray.data.extensions import ArrowTensorArray

    table = pa.Table.from_pylist([row(1)]).append_column(
        "tensor", ArrowTensorArray.from_numpy(np.ones((1, 2, 2)))
    )
    file = pa.BufferOutputStream()
    pq.write_table(table, file)
    with pytest.raises(InputError, match=r"ray\.data\.arrow_tensor"):
        write_log(tmp_path / "log", file.getvalue().to_pybytes())


def test_csv_rows_are_judged_one_by_one(tmp_path):
    write_log(tmp_path / "log", [row(1)])
    folder = tmp_path / "log" / "impressions"
    (folder / "0.parquet").unlink()
    (folder / "a.csv").write_text(
        "request_id,request_ts,user_id,ad_id,creative_id,slot,is_clicked,device\n"
        "r1,2024-01-10T12:00:00Z,,hat,wool,0,true,phone\n"
        "r2,2024-01-10 12:00:00,u1,hat,wool,abc,0,phone\n"
        "r3,yesterday,u1,hat,wool,1,0,phone\n"
        "r4,2024-01-10,u1,hat,wool,,0,phone\n"
    )
    log = validate_log(
        read_dataset(tmp_path / "log"), tmp_path / "out", max_reject_share=0.75
    )
    assert log.summary.rows.rejected_by_rule == {
        "wrong_type": 2,
        "missing_required": 1,
    }
    (accepted,) = (pq.read_table(path) for path in log.impression_files)
    assert accepted["request_ts"].to_pylist() == [NOON]
    rejected = pl.read_parquet(tmp_path / "out" / "rejects" / "impressions-*.parquet")
    assert rejected["slot"].to_list() == ["abc", "1", None]


def test_a_second_run_replaces_the_first(tmp_path):
    dataset = write_log(tmp_path / "log", [row(1)], [row(2)])
    validate_log(dataset, tmp_path / "out")
    (tmp_path / "log" / "impressions" / "1.parquet").unlink()
    log = validate_log(dataset, tmp_path / "out")
    assert len(log.impression_files) == 1
    assert log.summary.rows.read == 1


def test_row_numbers_run_on_over_the_batches_of_a_file(tmp_path):
    rows = 140_000  # more than one batch of 131,072
    table = pa.table(
        {name: pa.array([value]).take([0] * rows) for name, value in row(1).items()}
    )
    ids = [f"r{i}" for i in range(rows)]
    ids[139_999] = "r7"
    slots = [0] * rows
    slots[135_000] = -1
    changed = {"request_id": pa.array(ids), "slot": pa.array(slots)}
    for name, values in changed.items():
        table = table.set_column(table.column_names.index(name), name, values)
    file = pa.BufferOutputStream()
    pq.write_table(table, file)
    dataset = write_log(tmp_path / "log", file.getvalue().to_pybytes())
    log = validate_log(dataset, tmp_path / "out")
    assert log.summary.rows.accepted == rows - 2
    rejected = pl.read_parquet(tmp_path / "out" / "rejects" / "impressions-*.parquet")
    assert rejected.select("rule", "row_number").rows() == [
        ("bad_slot", 135_000),
        ("duplicate_impression", 139_999),
    ]


def validate_kept(root, caplog):
    caplog.clear()
    with caplog.at_level("INFO", logger="cacs_ray.data.logs"):
        log = validate_log(
            read_dataset(root / "log"),
            root / "out",
            max_reject_share=0.9,
            kept=root / "kept",
        )
    (said,) = [r.getMessage() for r in caplog.records if "as checked" in r.message]
    accepted = [pq.read_table(path) for path in log.impression_files]
    ids = pa.concat_tables(accepted)["request_id"].to_pylist()
    return said.removeprefix("validate").strip(), ids, log.summary.rows


def add_file(root, number, rows):
    path = root / "log" / "impressions" / f"{number}.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_only_files_that_are_new_are_checked(tmp_path, caplog):
    write_log(tmp_path / "log", [row(1), row(2)], [row(3), row(4, slot=-1)])
    validate_kept(tmp_path, caplog)
    # The new day repeats a row of an old file, and one of its own.
    add_file(tmp_path, 2, [row(5), row(1), row(6), row(6)])
    said, ids, rows = validate_kept(tmp_path, caplog)
    assert said == "2 of 3 files as checked before, 1 checked now"
    assert ids == ["r1", "r2", "r3", "r5", "r6"]
    assert rows.rejected_by_rule == {"bad_slot": 1, "duplicate_impression": 2}
    rejected = pl.read_parquet(tmp_path / "out" / "rejects" / "impressions-*.parquet")
    assert rejected["row_number"].to_list() == [1, 1, 3]
    said, again, _ = validate_kept(tmp_path, caplog)
    assert said == "3 of 3 files as checked before, 0 checked now"
    assert again == ids


def test_a_file_that_changed_is_checked_again(tmp_path, caplog):
    write_log(tmp_path / "log", [row(1)], [row(2)])
    validate_kept(tmp_path, caplog)
    add_file(tmp_path, 1, [row(7)])
    said, ids, _ = validate_kept(tmp_path, caplog)
    assert said == "1 of 2 files as checked before, 1 checked now"
    assert ids == ["r1", "r7"]
    assert len([p for p in (tmp_path / "kept").iterdir() if p.is_dir()]) == 2


def test_rows_of_an_ad_that_was_unknown_are_judged_again(tmp_path, caplog):
    sock = row(2, ad_id="sock", creative_id="long")
    write_log(tmp_path / "log", [row(1)], [sock, row(3)])
    assert validate_kept(tmp_path, caplog)[1] == ["r1", "r3"]
    pq.write_table(
        pa.table({"ad_id": ["hat", "sock"]}), tmp_path / "log" / "ads.parquet"
    )
    creatives = pa.table({"creative_id": ["wool", "long"], "ad_id": ["hat", "sock"]})
    pq.write_table(creatives, tmp_path / "log" / "creatives.parquet")
    said, ids, _ = validate_kept(tmp_path, caplog)
    assert said == "1 of 2 files as checked before, 1 checked now"
    assert ids == ["r1", "r2", "r3"]


def test_all_is_judged_again_when_an_entity_is_gone(tmp_path, caplog):
    sock = row(2, ad_id="sock", creative_id="long")
    write_log(tmp_path / "log", [row(1)], [sock, row(3)])
    both = pa.table({"creative_id": ["wool", "long"], "ad_id": ["hat", "sock"]})
    ads = pa.table({"ad_id": ["hat", "sock"]})
    for table, name in ((ads, "ads"), (both, "creatives")):
        pq.write_table(table, tmp_path / "log" / f"{name}.parquet")
    assert validate_kept(tmp_path, caplog)[1] == ["r1", "r2", "r3"]
    for table, name in ((ads[:1], "ads"), (both[:1], "creatives")):
        pq.write_table(table, tmp_path / "log" / f"{name}.parquet")
    said, ids, _ = validate_kept(tmp_path, caplog)
    assert said == "0 of 2 files as checked before, 2 checked now"
    assert ids == ["r1", "r3"]


def test_a_log_that_is_refused_at_first_leaves_nothing_kept(tmp_path):
    dataset = write_log(tmp_path / "log", [row(1)], b"torn")
    with pytest.raises(InputError, match="1 of 2 files refused"):
        validate_log(dataset, tmp_path / "out", kept=tmp_path / "out" / "w" / "kept")
    assert not (tmp_path / "out").exists()
