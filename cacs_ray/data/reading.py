"""Table files of any accepted format -> Arrow batches, with bounded memory.

Parquet keeps its types. CSV comes as text and is cast later, row by row, so that
one bad cell rejects one row and not the file. Whatever cannot be read as a whole
is an `InputError` that names the file.
"""

import base64
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from pyarrow import fs

from cacs_ray.errors import InputError

_FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
_COMPRESSIONS = (".gz", ".zst", ".bz2")
_BATCH_ROWS = 131_072
_JSON_LINES = 32_768
_CSV_BLOCK_BYTES = 16 << 20
_FOOTER_TAIL_BYTES = 8
_PARQUET_MAGIC = b"PAR1"
_SCHEMA_KEY = b"ARROW:schema"
_EXTENSION_KEY = b"ARROW:extension:name"


@dataclass(frozen=True, slots=True)
class TableFile:
    """One file of a table: where its file system is, and its path there."""

    location: str
    """The path or URI that `dataset.yaml` names; it says which file system."""
    path: str
    """The file inside that file system."""

    @property
    def format(self) -> str:
        """`parquet`, `csv` or `json`; empty when the ending says nothing."""
        stem = self.path.lower()
        for ending in _COMPRESSIONS:
            stem = stem.removesuffix(ending)
        return _FORMATS.get(os.path.splitext(stem)[1], "")

    def open(self) -> pa.NativeFile:
        """Open for random access, as Parquet needs."""
        return _file_system(self.location)[0].open_input_file(self.path)

    def open_stream(self) -> pa.NativeFile:
        """Open for reading once, decompressed by the file's ending."""
        return _file_system(self.location)[0].open_input_stream(
            self.path, compression="detect"
        )


def list_files(location: str) -> tuple[TableFile, ...]:
    """List the files of a table, in order of their paths, each once.

    Args:
        location: absolute path or URI of one file, or of a directory whose files
            (at any depth) are the table. Names that begin with `.` or `_` are
            left out, as writers leave markers under them.

    Returns:
        At least one file for a file, possibly none for a directory.

    Raises:
        InputError: nothing is there, or a file has an unknown ending.
    """
    system, path = _file_system(location)
    try:
        info = system.get_file_info(path)
        if info.type == fs.FileType.Directory:
            selector = fs.FileSelector(path, recursive=True)
            found = [entry for entry in system.get_file_info(selector) if entry.is_file]
        else:
            found = [info]
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(location, error) from error
    if info.type == fs.FileType.NotFound:
        raise InputError("does not exist", source=location, rule="readable")
    names = sorted({entry.path for entry in found if not _is_marker(entry.path, path)})
    files = tuple(TableFile(location, name) for name in names)
    for file in files:
        if not file.format:
            raise InputError(
                f"unknown file type; known endings: {', '.join(_FORMATS)}",
                source=file.path,
                rule="known_format",
            )
    return files


def file_schema(file: TableFile) -> pa.Schema:
    """Read the column names and types of one file; CSV columns are all text.

    Raises:
        InputError: the file is torn, holds Arrow extension types or names a
            column twice.
    """
    try:
        if file.format == "parquet":
            schema = _parquet(file).schema_arrow
        elif file.format == "csv":
            schema = _csv_reader(file).schema
        else:
            schema = next(_json_tables(file), pa.table({})).schema
    except InputError:
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        raise _unreadable(file.path, error) from error
    _refuse_repeated(schema, file.path)
    return schema


def read_batches(
    file: TableFile, *, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Read one file piece by piece, in file order.

    Args:
        file: what to read.
        columns: which columns; all by default. Absent ones are left out.

    Yields:
        Tables of at most about 131,072 rows.

    Raises:
        InputError: the file cannot be read to its end.
    """
    wanted = None
    if columns is not None:
        present = set(file_schema(file).names)
        wanted = [name for name in columns if name in present]
    try:
        if file.format == "parquet":
            parts = _parquet(file).iter_batches(_BATCH_ROWS, columns=wanted)
            yield from (pa.Table.from_batches([part]) for part in parts)
            return
        tables = _csv_tables(file) if file.format == "csv" else _json_tables(file)
        for table in tables:
            kept = table.column_names if wanted is None else wanted
            yield table.select([name for name in kept if name in table.column_names])
    except InputError:
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        raise _unreadable(file.path, error) from error


def read_whole(file: TableFile) -> pa.Table:
    """Read one small file at once; pieces whose types differ become text."""
    pieces = list(read_batches(file))
    return joined(pieces) if pieces else file_schema(file).empty_table()


def joined(pieces: Sequence[pa.Table]) -> pa.Table:
    """Put at least one table below another; if types do not fit, all become text."""
    try:
        return pa.concat_tables(pieces, promote_options="permissive")
    except pa.ArrowException:
        return pa.concat_tables(
            [as_text(piece) for piece in pieces], promote_options="permissive"
        )


def as_text(table: pa.Table) -> pa.Table:
    """Spell every value as text (lists as JSON), so that pieces fit together."""
    return pa.table(
        {
            name: pa.array([_text(value) for value in column.to_pylist()], pa.string())
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    )


def _file_system(location: str) -> tuple[fs.FileSystem, str]:
    if "\0" in location:
        raise InputError("a path holds a NUL byte", source=repr(location), rule="path")
    if "://" not in location:
        return fs.LocalFileSystem(), location
    try:
        system, path = fs.FileSystem.from_uri(location)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise _unreadable(location, error) from error
    return system, path


def _is_marker(path: str, root: str) -> bool:
    """Tell whether a part of the path below `root` is hidden or a marker."""
    below = path.removeprefix(root).split("/")
    return path != root and any(part.startswith((".", "_")) for part in below)


def _unreadable(source: str, error: BaseException) -> InputError:
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(f"cannot be read: {first_line}", source=source, rule="readable")


def _refuse_repeated(schema: pa.Schema, source: str) -> None:
    repeated = {name for name in schema.names if schema.names.count(name) > 1}
    if repeated:
        raise InputError(
            "the column stands in the file more than once",
            source=source,
            field=min(repeated),
            rule="readable",
        )


def _parquet(file: TableFile) -> pq.ParquetFile:
    """Open a Parquet file after its footer was found free of extension types."""
    footer = _footer(file)
    _refuse_extension_types(footer, file.path)
    reader = pq.ParquetFile(file.open())
    for field in reader.schema_arrow:
        if _holds_extension(field.type):
            raise _extension_error(file.path, str(field.type), field.name)
    if any(pa.types.is_fixed_size_list(field.type) for field in reader.schema_arrow):
        return pq.ParquetFile(file.open(), metadata=_plain_metadata(footer))
    return reader


def _footer(file: TableFile) -> bytes:
    """Read the raw footer; empty when the file does not end as Parquet does."""
    with file.open() as stream:
        size = stream.size()
        stream.seek(max(0, size - _FOOTER_TAIL_BYTES))
        tail = stream.read(_FOOTER_TAIL_BYTES)
        if not tail.endswith(_PARQUET_MAGIC):
            return b""  # not whole: the Parquet reader says so in its own words
        length = min(int.from_bytes(tail[:4], "little"), size)
        stream.seek(max(0, size - _FOOTER_TAIL_BYTES - length))
        return stream.read(length)


def _plain_metadata(footer: bytes) -> pq.FileMetaData:
    """Read a footer without the Arrow schema in it: lists of any size come.

    Arrow writes a null into a column of lists of one size, but refuses to read it
    back as such (`Expected all lists to be of size`).
    """
    hidden = footer.replace(_SCHEMA_KEY, b"-" * len(_SCHEMA_KEY))
    length = len(hidden).to_bytes(4, "little")
    whole = _PARQUET_MAGIC + hidden + length + _PARQUET_MAGIC
    return pq.read_metadata(pa.BufferReader(whole))


def _refuse_extension_types(footer: bytes, source: str) -> None:
    """Look for extension types in the raw footer, before Arrow may decode it.

    Opening such a file hands its bytes to whatever Python class is registered
    for the type (Ray's tensors once unpickled them), so looking at the opened
    schema would come too late.
    """
    for schema in _stored_schemas(footer):
        if _EXTENSION_KEY in schema:
            name = re.search(rb"[A-Za-z_]\w*(?:\.\w+)+", schema)
            raise _extension_error(
                source, name.group().decode() if name else "unnamed", None
            )


def _stored_schemas(footer: bytes) -> Iterator[bytes]:
    """Decode each base64 Arrow schema in a footer, at each possible alignment."""
    for match in re.finditer(_SCHEMA_KEY, footer):
        tail = footer[match.end() : match.end() + 16]
        for start in range(len(tail)):
            run = re.match(rb"[A-Za-z0-9+/]{16,}", footer[match.end() + start :])
            if run:
                for shift in range(4):
                    text = run.group()[shift:]
                    yield base64.b64decode(text[: len(text) // 4 * 4])
                break


def _holds_extension(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return True
    return any(_holds_extension(kind.field(i).type) for i in range(kind.num_fields))


def _extension_error(source: str, name: str, field: str | None) -> InputError:
    return InputError(
        f"holds the Arrow extension type {name!r}; store plain lists instead",
        source=source,
        field=field,
        rule="extension_type",
    )


def _csv_reader(file: TableFile) -> pacsv.CSVStreamingReader:
    return pacsv.open_csv(
        file.open_stream(),
        read_options=pacsv.ReadOptions(block_size=_CSV_BLOCK_BYTES),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            default_column_type=pa.string(), strings_can_be_null=True, null_values=[""]
        ),
    )


def _csv_tables(file: TableFile) -> Iterator[pa.Table]:
    reader = _csv_reader(file)
    _refuse_repeated(reader.schema, file.path)
    for batch in reader:
        yield pa.Table.from_batches([batch])


def _json_tables(file: TableFile) -> Iterator[pa.Table]:
    """Read JSON Lines; a broken line makes the whole file unreadable."""
    lines: list[Any] = []
    with file.open_stream() as stream:
        buffered = pa.BufferedInputStream(stream, 1 << 20)
        for number, line in enumerate(_lines(buffered)):
            if not line.strip():
                continue
            lines.append(_json_object(line, number, file.path))
            if len(lines) == _JSON_LINES:
                yield _columns(lines)
                lines = []
    if lines:
        yield _columns(lines)


def _lines(stream: pa.NativeFile) -> Iterator[bytes]:
    rest = b""
    while chunk := stream.read(1 << 20):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    yield rest


def _json_object(line: bytes, number: int, source: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"is not JSON: {error}",
            source=source,
            field=f"line {number + 1}",
            rule="readable",
        ) from error
    if not isinstance(row, dict):
        raise InputError(
            "is not a JSON object",
            source=source,
            field=f"line {number + 1}",
            rule="readable",
        )
    return row


def _columns(rows: list[dict[str, Any]]) -> pa.Table:
    """Turn JSON rows into columns; a column of mixed types becomes text."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            columns[name] = pa.array([_text(value) for value in values], pa.string())
    return pa.table(columns)


def _text(value: Any) -> str | None:  # noqa: ANN401 - any cell
    if value is None or isinstance(value, str):
        return value if value is None else value.encode("utf-8", "replace").decode()
    return json.dumps(value, default=str)
