"""Files of every format become batches; what is torn or hostile is refused."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cacs_ray.data.reading import (
    TableFile,
    file_schema,
    list_files,
    read_batches,
    read_whole,
)
from cacs_ray.errors import InputError


def one_file(path) -> TableFile:
    (file,) = list_files(str(path))
    return file


class MarkedType(pa.ExtensionType):
    """Leaves a mark when a reader lets Arrow rebuild it from a file."""

    marks: list[bytes] = []  # noqa: RUF012 - one list for all, by intent

    def __init__(self):
        super().__init__(pa.int64(), "tests.marked")

    def __arrow_ext_serialize__(self):
        return b"payload"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        cls.marks.append(serialized)
        return cls()


@pytest.fixture
def marked_type():
    kind = MarkedType()
    pa.register_extension_type(kind)
    yield kind
    pa.unregister_extension_type("tests.marked")
    MarkedType.marks.clear()


@pytest.mark.parametrize("wrap", ["plain", "list", "struct"])
def test_an_extension_type_is_refused_before_it_is_rebuilt(tmp_path, marked_type, wrap):
    values = pa.ExtensionArray.from_storage(marked_type, pa.array([1, 2]))
    if wrap == "list":
        values = pa.ListArray.from_arrays([0, 1, 2], values)
    if wrap == "struct":
        values = pa.StructArray.from_arrays([values], ["inner"])
    pq.write_table(pa.table({"a": [1, 2], "bad": values}), tmp_path / "a.parquet")
    MarkedType.marks.clear()
    with pytest.raises(InputError, match=r"a\.parquet.*\[extension_type\]") as caught:
        list(read_batches(one_file(tmp_path / "a.parquet")))
    assert "tests.marked" in str(caught.value)
    assert MarkedType.marks == []
    pq.read_table(tmp_path / "a.parquet")
    assert MarkedType.marks != [], "the trap itself is not set"


def test_plain_types_are_not_refused(tmp_path):
    table = pa.table(
        {
            "text": pa.array(["ARROW", None]).dictionary_encode(),
            "list": pa.array([[1.0], None], pa.list_(pa.float32())),
            "fixed": pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float64(), 2)),
        }
    ).replace_schema_metadata({"note": "ARROW:extension"})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_whole(one_file(tmp_path / "a.parquet")).num_rows == 2


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_parquet_file_is_named(tmp_path, share):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read.*\[readable\]"):
        list(read_batches(one_file(path)))


def test_a_damaged_page_is_found_on_the_way(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"a": [f"{i}" * 9 for i in range(9999)]}), path, compression="zstd"
    )
    content = bytearray(path.read_bytes())
    content[100:400] = b"\0" * 300
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read"):
        list(read_batches(one_file(path)))


def test_csv_cells_are_text_and_empty_ones_null(tmp_path):
    (tmp_path / "a.csv").write_text('a,b\n1,NA\n"x\ny",\n')
    table = read_whole(one_file(tmp_path / "a.csv"))
    assert table.to_pylist() == [{"a": "1", "b": "NA"}, {"a": "x\ny", "b": None}]


def test_compressed_csv_is_read(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a\n1\n"))
    assert read_whole(one_file(tmp_path / "a.csv.gz")).to_pylist() == [{"a": "1"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b""),
        ("a.csv", b"a,b\n1,2\n3\n"),
        ("a.csv", b"a\n\xff\xfe\n"),
        ("a.csv", b"a,a\n1,2\n"),
        ("a.csv.gz", b"not gzip"),
        ("a.csv.gz", gzip.compress(b"a\n1\n" * 999)[:-9]),
        ("a.jsonl", b'{"a": 1}\n{"a": '),
        ("a.jsonl", b"[1]\n"),
        ("a.jsonl", b"[" * 100_000),
        ("a.parquet", b"PAR1"),
        ("a.parquet", b"\xff\xff\xff\x7fPAR1"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}.*\[readable\]"):
        list(read_batches(one_file(tmp_path / name)))


def test_json_lines_of_mixed_types_become_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1, "l": [1.5]}\n\n{"a": "x"}\n')
    table = read_whole(one_file(tmp_path / "a.jsonl"))
    assert table.to_pylist() == [{"a": "1", "l": [1.5]}, {"a": "x", "l": None}]


@pytest.mark.parametrize("number", ["1e400", "NaN", str(2**70)])
def test_json_numbers_beyond_a_type_do_not_stop_the_file(tmp_path, number):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": ' + number + "}\n")
    assert read_whole(one_file(tmp_path / "a.jsonl")).num_rows == 2


def test_only_wanted_columns_are_read(tmp_path):
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "a.parquet")
    (part,) = read_batches(one_file(tmp_path / "a.parquet"), columns=["b", "c"])
    assert part.to_pylist() == [{"b": 2}]


def test_a_directory_is_listed_in_order_without_markers(tmp_path):
    for name in ("b.parquet", "sub/a.csv", "_SUCCESS", ".crc", "_tmp/c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a\n")
    names = [
        file.path.removeprefix(f"{tmp_path}/") for file in list_files(str(tmp_path))
    ]
    assert names == ["b.parquet", "sub/a.csv"]
    uris = list_files(f"file://{tmp_path}/sub/../sub")
    assert [file_schema(file).names for file in uris] == [["a"]]


@pytest.mark.parametrize(
    ("location", "rule"),
    [
        ("/nowhere/at/all.parquet", "readable"),
        ("nofs://bucket/a", "readable"),
        ("/a\0b", "path"),
        ("file:///a\0b", "path"),
    ],
)
def test_a_place_that_is_none_is_told(location, rule):
    with pytest.raises(InputError) as caught:
        list_files(location)
    assert caught.value.rule == rule


def test_an_unknown_ending_is_told(tmp_path):
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(InputError, match=r"a\.xlsx: unknown file type"):
        list_files(str(tmp_path))


def test_a_log_in_a_hidden_directory_is_no_marker(tmp_path):
    (tmp_path / ".logs").mkdir()
    (tmp_path / ".logs" / "a.csv").write_text("a\n")
    assert len(list_files(str(tmp_path / ".logs"))) == 1


def test_vectors_of_one_size_may_be_unknown(tmp_path):
    vectors = pa.array([None, [1.0, 2.0], None], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"row": [1, 2, 3], "v": vectors}), tmp_path / "a.parquet")
    read = read_whole(one_file(tmp_path / "a.parquet"))
    assert read["row"].to_pylist() == [1, 2, 3]
    assert read["v"].to_pylist() == vectors.to_pylist()


@pytest.mark.parametrize("read", [file_schema, read_whole])
def test_a_broken_rule_is_named_once(tmp_path, read):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(InputError) as caught:
        read(one_file(tmp_path / "a.jsonl"))
    assert str(caught.value).count("a.jsonl") == 1
    assert caught.value.field == "line 2"
