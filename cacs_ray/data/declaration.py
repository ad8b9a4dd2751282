"""What a dataset is: its tables, declared features, and columns as they become."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pydantic
from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.data.reading import TableFile, list_files
from cacs_ray.schema import ADS, CREATIVES, IMPRESSIONS, USERS, Kind, Side

TABLES: Final[dict[str, pa.Schema]] = {
    "impressions": IMPRESSIONS,
    "creatives": CREATIVES,
    "ads": ADS,
    "users": USERS,
}
TABLE_OF: Final[dict[Side, str]] = {
    "user": "users",
    "request": "impressions",
    "ad": "ads",
    "creative": "creatives",
}
_FULL_HASH_BYTES = 64 << 20
_EDGE_BYTES = 1 << 16


KIND_TYPES: Final[dict[Kind, pa.DataType | None]] = {
    "id": pa.string(),
    "category": pa.string(),
    "category_list": pa.list_(pa.string()),
    "number": pa.float64(),
    "vector": pa.list_(pa.float32()),
    "text": pa.string(),
    "image": None,
}


class ColumnSource(Config):
    """Where a contract column comes from; in YAML a bare name will do."""

    column: str
    """Its name in the user's file."""
    unit: Literal["s", "ms", "us", "ns", "iso"] | None = None
    """How a time is written: a count since 1970 (UTC), or ISO 8601 text."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: object) -> object:
        return {"column": value} if isinstance(value, str) else value


class FeatureDeclaration(Config):
    """One declared feature."""

    name: str = Field(min_length=1)
    of: Side
    """Which table it stands in, hence which tower may see it."""
    kind: Kind
    size: int | None = Field(default=None, ge=1)
    """Numbers in a vector (required), or how many of a category_list count."""
    column: str = ""
    """The column that holds it; its name unless said otherwise."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _column_is_the_name(cls, value: object) -> object:
        if isinstance(value, dict) and not value.get("column"):
            return {**value, "column": value.get("name")}
        return value


@dataclass(frozen=True, slots=True)
class LayoutColumn:
    """One column of a checked table: where it comes from, what it becomes."""

    name: str
    source: str
    """Its name in the user's file."""
    type: pa.DataType | None
    """What it becomes; None keeps text and bytes as they are (images)."""
    unit: str | None = None
    is_required: bool = False
    must_exist: bool = False
    """Whether a file without it has the wrong schema."""
    kind: Kind | None = None
    size: int | None = None


class Description(Config):
    """`dataset.yaml` word for word."""

    version: int
    tables: dict[str, str]
    features: tuple[FeatureDeclaration, ...] = ()
    shared_vocabularies: tuple[tuple[str, ...], ...] = ()
    columns: dict[str, dict[str, ColumnSource]] = Field(default_factory=dict)


class Dataset(Description):
    """A dataset whose description was found right by `read_dataset`."""

    path: str
    """Absolute path of its `dataset.yaml`."""
    tables: dict[str, str]
    """Table name to absolute path or URI."""

    @property
    def root(self) -> Path:
        """The directory that relative paths (tables, images) start from."""
        return Path(self.path).parent

    def fields(self, *sides: Side) -> tuple[FeatureDeclaration, ...]:
        """Return the features of these sides (of all without any), as declared."""
        return tuple(f for f in self.features if not sides or f.of in sides)

    def files(self, table: str) -> tuple[TableFile, ...]:
        """List the files of a table, none when the table is absent."""
        return list_files(self.tables[table]) if table in self.tables else ()

    def layout(self, table: str) -> tuple[LayoutColumn, ...]:
        """Say which columns a checked table has: contract first, then declared."""
        return _layout(self, table)

    @property
    def digest(self) -> str:
        """Digest of the description and of every file, 32 hex characters.

        Files up to 64 MiB count with all their bytes; larger ones with name,
        size, and the first and last 64 KiB (which hold a Parquet footer).
        Neither location nor modification time counts: a copy is the same.
        """
        digest = hashlib.sha256(Path(self.path).read_bytes())
        for table in sorted(self.tables):
            for file in self.files(table):
                _hash_file(digest, file, table)
        return digest.hexdigest()[:32]


def _layout(dataset: Dataset, table: str) -> tuple[LayoutColumn, ...]:
    sources = dataset.columns.get(table, {})
    columns: dict[str, LayoutColumn] = {}
    for field in TABLES[table]:
        source = sources.get(field.name)
        columns[field.name] = LayoutColumn(
            name=field.name,
            source=source.column if source else field.name,
            type=field.type,
            unit=source.unit if source else None,
            is_required=not field.nullable,
            must_exist=not field.nullable or source is not None,
        )
    for feature in dataset.features:
        if TABLE_OF[feature.of] == table and feature.column not in columns:
            source = sources.get(feature.column)
            columns[feature.column] = LayoutColumn(
                name=feature.column,
                source=source.column if source else feature.column,
                type=KIND_TYPES[feature.kind],
                unit=source.unit if source else None,
                must_exist=True,
                kind=feature.kind,
                size=feature.size,
            )
    return tuple(columns.values())


def _hash_file(digest: Any, file: TableFile, table: str) -> None:  # noqa: ANN401
    with file.open() as stream:
        size = stream.size()
        digest.update(f"{table}/{os.path.basename(file.path)}/{size}\n".encode())
        if size <= _FULL_HASH_BYTES:
            digest.update(stream.read())
            return
        digest.update(stream.read(_EDGE_BYTES))
        stream.seek(size - _EDGE_BYTES)
        digest.update(stream.read())


def table_schema(
    layout: tuple[LayoutColumn, ...], found: pa.Schema | None = None
) -> pa.Schema:
    """Return the schema of a checked table; required columns admit no null.

    Args:
        layout: its columns.
        found: a table's schema that settles the type of image columns, which
            may be text or bytes; text without it.
    """
    return pa.schema(
        [
            pa.field(
                column.name,
                column.type
                or (found.field(column.name).type if found else pa.string()),
                nullable=not column.is_required,
            )
            for column in layout
        ]
    )
