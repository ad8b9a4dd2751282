"""The checks of a dataset's description; each raises at the first mistake.

Every message names file, key and rule, and offers the nearest valid name.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pydantic

from cacs_ray.config import Config
from cacs_ray.data.declaration import (
    TABLE_OF,
    TABLES,
    ColumnSource,
    Dataset,
    Description,
    FeatureDeclaration,
    LayoutColumn,
)
from cacs_ray.data.reading import TableFile, file_schema
from cacs_ray.errors import InputError
from cacs_ray.schema import KINDS, SIDES, Column, Kind

VERSION = 1
_REQUIRED_TABLES = ("impressions", "creatives", "ads")
_UNITS = ("s", "ms", "us", "ns", "iso")
_SHAPES = {
    "tuple_type": "must be a list",
    "dict_type": "must hold keys",
    "model_type": "must hold keys",
    "string_type": "must be text",
}
"""What YAML calls the types that are named by their Python classes."""
_SIZED_KINDS = ("vector", "category_list")
_VOCABULARY_KINDS = ("id", "category", "category_list")
_KNOWN_ONLY_AFTER = (
    Column.CREATIVE_ID,
    Column.SLOT,
    Column.IS_CLICKED,
    Column.PROPENSITY,
    Column.CANDIDATE_CREATIVE_IDS,
    Column.WEIGHT,
    Column.POLICY,
)


def nearest(name: object, known: Iterable[str]) -> str:
    """Spell the hint that ends an error about a name nobody knows."""
    names = [str(one) for one in known]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


class DescriptionCheck:
    """Checks one description, in the order of its methods."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, message: str, field: str, rule: str) -> InputError:
        """Make the error of this description for one key."""
        return InputError(message, source=self.source, field=field, rule=rule)

    def parse(self, content: dict[str, Any]) -> Description:
        """Check keys, types, kinds and version."""
        if content.get("version", VERSION) != VERSION:
            raise self.fail(
                f"is {content['version']!r}, must be {VERSION}", "version", "version"
            )
        try:
            return Description.model_validate(content)
        except pydantic.ValidationError as error:
            raise self._translate(error) from error

    def _translate(self, error: pydantic.ValidationError) -> InputError:
        # A misspelt key is also a missing one; the misspelling says more.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        place, name, given = _dotted(first["loc"]), first["loc"][-1], first["input"]
        if first["type"] == "extra_forbidden":
            model = _model_at(first["loc"])
            hint = nearest(name, model.model_fields)
            return self.fail(f"no such key, {hint}", place, "known_key")
        if first["type"] == "missing":
            return self.fail("is missing", place, "required_key")
        if first["type"] == "literal_error":
            known = {"kind": KINDS, "of": SIDES}.get(str(name), _UNITS)
            return self.fail(
                f"{given!r} is unknown, {nearest(given, known)}", place, f"known_{name}"
            )
        wanted = _SHAPES.get(first["type"], first["msg"])
        return self.fail(f"{wanted}, got {given!r}", place, first["type"])

    def tables(self, described: Description) -> None:
        """Check that the tables are known, and the needed ones there."""
        for name, place in described.tables.items():
            if name not in TABLES:
                raise self.fail(
                    f"no such table, {nearest(name, TABLES)}",
                    f"tables.{name}",
                    "known_table",
                )
            if not place or "\0" in place:
                raise self.fail(f"{place!r} is no path", f"tables.{name}", "path")
        for name in _REQUIRED_TABLES:
            if name not in described.tables:
                raise self.fail("is missing", f"tables.{name}", "required_table")

    def features(self, described: Description) -> None:
        """Check each declared feature by itself and against the others."""
        seen: dict[tuple[str, str], int] = {}
        for number, feature in enumerate(described.features):
            place = f"features[{number}]"
            if (feature.of, feature.name) in seen:
                raise self.fail(
                    f"{feature.name!r} of {feature.of} stands already in "
                    f"features[{seen[feature.of, feature.name]}]",
                    f"{place}.name",
                    "duplicate_feature",
                )
            seen[feature.of, feature.name] = number
            self._feature(described, feature, place)

    def _feature(
        self, described: Description, feature: FeatureDeclaration, place: str
    ) -> None:
        table = TABLE_OF[feature.of]
        if table not in described.tables and feature.column != Column.USER_ID:
            raise self.fail(
                f"{feature.name!r} is of {feature.of}, but tables.{table} is missing",
                f"{place}.of",
                "required_table",
            )
        if feature.kind == "vector" and feature.size is None:
            raise self.fail("a vector needs its size", f"{place}.size", "vector_size")
        if feature.kind not in _SIZED_KINDS and feature.size is not None:
            raise self.fail(
                f"a {feature.kind} has no size", f"{place}.size", "vector_size"
            )
        if feature.of == "request" and feature.column in _KNOWN_ONLY_AFTER:
            raise self.fail(
                f"{feature.column!r} is known only after the decision",
                f"{place}.column",
                "known_at_request",
            )

    def shared_vocabularies(self, described: Description) -> None:
        """Check that shared features exist and have a vocabulary."""
        kinds: dict[str, list[Kind]] = {}
        for feature in described.features:
            kinds.setdefault(feature.name, []).append(feature.kind)
        taken: set[str] = set()
        for i, group in enumerate(described.shared_vocabularies):
            for j, name in enumerate(group):
                self._shared(kinds, name, f"shared_vocabularies[{i}][{j}]")
                if name in taken:
                    raise self.fail(
                        f"{name!r} is shared twice",
                        f"shared_vocabularies[{i}][{j}]",
                        "shared_once",
                    )
                taken.add(name)

    def _shared(self, kinds: dict[str, list[Kind]], name: str, place: str) -> None:
        if name not in kinds:
            raise self.fail(
                f"no feature {name!r}, {nearest(name, kinds)}", place, "known_feature"
            )
        if len(kinds[name]) > 1:
            raise self.fail(
                f"{name!r} is ambiguous; rename one with {{name: ..., column: {name}}}",
                place,
                "known_feature",
            )
        if kinds[name][0] not in _VOCABULARY_KINDS:
            raise self.fail(
                f"{name!r} is a {kinds[name][0]}; only {', '.join(_VOCABULARY_KINDS)} "
                "have a vocabulary",
                place,
                "vocabulary_kind",
            )

    def columns(self, described: Description) -> None:
        """Check that only known columns are renamed."""
        for table, sources in described.columns.items():
            if table not in described.tables:
                raise self.fail(
                    f"no such table, {nearest(table, described.tables)}",
                    f"columns.{table}",
                    "known_table",
                )
            known = [*TABLES[table].names]
            known += [f.column for f in described.features if TABLE_OF[f.of] == table]
            for name in sources:
                if name not in known:
                    raise self.fail(
                        f"neither a contract column nor declared, "
                        f"{nearest(name, known)}",
                        f"columns.{table}.{name}",
                        "known_column",
                    )

    def file_columns(self, dataset: Dataset, table: str) -> None:
        """Check the first readable file of a table against what is declared of it."""
        files = dataset.files(table)
        if not files:
            what = "empty log" if table == "impressions" else "empty table"
            raise InputError(
                f"{what}: no files", source=dataset.tables[table], rule="empty_log"
            )
        file, schema = _first_readable(files)
        for column in dataset.layout(table):
            check_column(column, schema, source=file.path, table=table)


def check_column(
    column: LayoutColumn, schema: pa.Schema, *, source: str, table: str
) -> None:
    """Check one column of a file's schema.

    Raises:
        InputError: the column is missing and must be there, a time is a bare
            number without a unit, or its type cannot hold its kind.
    """
    place = f"{table}.{column.name}"
    if column.source not in schema.names:
        if column.must_exist:
            raise InputError(
                f"no column {column.source!r}, {nearest(column.source, schema.names)}",
                source=source,
                field=place,
                rule="missing_column",
            )
        return
    kind = schema.field(column.source).type
    is_time = column.type is not None and pa.types.is_timestamp(column.type)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if is_time and is_number and column.unit in (None, "iso"):
        raise InputError(
            f"times in {column.source!r} are numbers; say their unit in "
            f"columns.{table}: {{{column.name}: {{column: {column.source}, unit: s}}}}",
            source=source,
            field=place,
            rule="time_unit",
        )
    if column.kind and not _can_hold(column.kind, kind):
        raise InputError(
            f"a column of type {kind} cannot be a {column.kind}",
            source=source,
            field=place,
            rule="kind_fits_column",
        )


def _can_hold(kind: Kind, column: pa.DataType) -> bool:
    """Tell whether values of an Arrow type may be a kind; text may be anything."""
    if pa.types.is_dictionary(column):
        column = column.value_type
    is_text = pa.types.is_string(column) or pa.types.is_large_string(column)
    if pa.types.is_null(column) or is_text or pa.types.is_string_view(column):
        return True
    is_list = (
        pa.types.is_list(column)
        or pa.types.is_large_list(column)
        or pa.types.is_fixed_size_list(column)
    )
    is_bytes = pa.types.is_binary(column) or pa.types.is_large_binary(column)
    if kind in ("vector", "category_list"):
        return is_list
    if kind == "image":
        return is_bytes
    return not (is_list or is_bytes or pa.types.is_struct(column))


def _first_readable(files: Sequence[TableFile]) -> tuple[TableFile, pa.Schema]:
    """Find a file whose schema can be read.

    The unreadable ones before it are left for validation, which lists them all.
    """
    for file in files[:-1]:
        try:
            return file, file_schema(file)
        except InputError:
            continue
    return files[-1], file_schema(files[-1])


def _dotted(parts: Sequence[int | str]) -> str:
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts)
    return text.removeprefix(".")


def _model_at(place: Sequence[int | str]) -> type[Config]:
    if place[0] == "features" and len(place) > 1:
        return FeatureDeclaration
    if place[0] == "columns" and len(place) > 1:
        return ColumnSource
    return Description
