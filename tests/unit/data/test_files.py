"""A file or directory is whole or not there."""

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cacs_ray.data.files import (
    atomic_directory,
    read_arrays,
    read_json,
    read_parquet,
    refuse_foreign,
    sha256_file,
    write_bytes,
    write_json,
    write_table,
)
from cacs_ray.errors import InputError


def test_a_directory_appears_only_when_it_is_complete(tmp_path):
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "a").read_text() == "1"


def test_a_failure_leaves_the_old_directory_and_nothing_new(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("1")

    def fail_half_way():
        with atomic_directory(tmp_path / "out") as folder:
            (folder / "new").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]


@pytest.mark.parametrize("neighbour", [None, "b"])
def test_a_failure_takes_the_directories_it_made_along(tmp_path, neighbour):
    def fail_half_way():
        with atomic_directory(tmp_path / "run" / "work" / "a"):
            if neighbour:
                write_json(tmp_path / "run" / neighbour, 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*")]
    assert sorted(map(str, left)) == (["run", "run/b"] if neighbour else [])


def test_a_new_directory_replaces_all_of_the_old_one(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("1")
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "new").write_text("2")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


@pytest.mark.parametrize("held", [[], ["part-0.parquet", "part-1.parquet"]])
def test_what_a_job_wrote_may_be_replaced(tmp_path, held):
    for name in held:
        (tmp_path / name).touch()
    refuse_foreign(tmp_path, "part-*.parquet", "rejects")
    refuse_foreign(tmp_path / "absent", "part-*.parquet")


def test_what_a_job_did_not_write_is_not_lost(tmp_path):
    (tmp_path / "part-0.parquet").touch()
    (tmp_path / "thesis").mkdir()
    with pytest.raises(InputError, match=r"--out: 'thesis' .*\[own_out\]"):
        refuse_foreign(tmp_path, "part-*.parquet")


def test_json_comes_back_and_leaves_nothing_aside(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"b": [1, None]})
    assert read_json(tmp_path / "deep" / "a.json") == {"b": [1, None]}
    assert len(list((tmp_path / "deep").iterdir())) == 1


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe"])
def test_torn_json_is_told_with_its_file(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json.*\[readable\]"):
        read_json(tmp_path / "a.json")


def test_absent_json_is_told_with_its_file(tmp_path):
    with pytest.raises(InputError, match=r"a\.json.*\[readable\]"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("content", [None, b"", b"PAR1", b"\x80\x04N."])
@pytest.mark.parametrize("read", [read_parquet, read_arrays])
def test_what_no_library_can_read_is_told_with_its_file(tmp_path, read, content):
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=r"/a: .*\[readable\]"):
        read(tmp_path / "a")


def test_a_table_comes_back(tmp_path):
    table = pa.table({"a": [1, 2]})
    write_table(tmp_path / "deep" / "a.parquet", table)
    assert pq.read_table(tmp_path / "deep" / "a.parquet").equals(table)


def test_the_digest_is_sha256(tmp_path):
    write_bytes(tmp_path / "a", b"wool")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"wool").hexdigest()
