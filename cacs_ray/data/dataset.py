"""dataset.yaml -> a checked description of the log: tables, features, columns.

Everything that can be wrong with the description is found here, before any row
is read.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import yaml

from cacs_ray.data.checks import VERSION, DescriptionCheck
from cacs_ray.data.declaration import ColumnSource, Dataset, FeatureDeclaration
from cacs_ray.data.files import write_bytes
from cacs_ray.data.reading import file_schema
from cacs_ray.errors import InputError

__all__ = [
    "DATASET_FILE",
    "ColumnSource",
    "Dataset",
    "FeatureDeclaration",
    "read_dataset",
    "write_dataset",
    "write_feedback_dataset",
]

DATASET_FILE: Final = "dataset.yaml"


def read_dataset(directory_or_yaml: str | Path) -> Dataset:
    """Read and check a dataset's description.

    Args:
        directory_or_yaml: the dataset's directory, or its `dataset.yaml`.

    Returns:
        The description with absolute table locations.

    Raises:
        InputError: anything is wrong with the description, or a column it needs
            is not in its table's first file.
    """
    path = Path(os.path.abspath(os.fspath(directory_or_yaml)))
    if path.suffix not in (".yaml", ".yml"):
        path = path / DATASET_FILE
    check = DescriptionCheck(str(path))
    described = check.parse(_load_yaml(path))
    check.tables(described)
    check.features(described)
    check.shared_vocabularies(described)
    check.columns(described)
    dataset = Dataset(
        **dict(described) | {"tables": _absolute(described.tables, path.parent)},
        path=str(path),
    )
    for table in dataset.tables:
        check.file_columns(dataset, table)
    return dataset


def write_dataset(
    directory: str | Path,
    *,
    tables: Mapping[str, str],
    features: Sequence[FeatureDeclaration],
    shared_vocabularies: Sequence[Sequence[str]] = (),
    columns: Mapping[str, Mapping[str, ColumnSource]] | None = None,
) -> None:
    """Write `dataset.yaml` into a directory that holds (or will hold) the tables.

    Args:
        directory: where to.
        tables: table name to path (relative to the directory) or URI.
        features: what is declared.
        shared_vocabularies: groups of feature names with one embedding table.
        columns: contract name to the name in the files, per table.
    """
    described: dict[str, Any] = {"version": VERSION, "tables": dict(tables)}
    described["features"] = [
        feature.model_dump(
            exclude_none=True,
            exclude={"column"} if feature.column == feature.name else None,
        )
        for feature in features
    ]
    if shared_vocabularies:
        described["shared_vocabularies"] = [list(g) for g in shared_vocabularies]
    if columns:
        described["columns"] = {
            table: {k: v.model_dump(exclude_none=True) for k, v in sources.items()}
            for table, sources in columns.items()
        }
    text = yaml.safe_dump(described, sort_keys=False, default_flow_style=None)
    write_bytes(Path(directory) / DATASET_FILE, text.encode())


def write_feedback_dataset(directory: str | Path, dataset: Dataset) -> None:
    """Describe impressions that came back from serving as a dataset of their own.

    Its impressions are `impressions/` in the directory; creatives, ads and users stay
    where they are. Features are those of `dataset`, whose request columns stand in
    the decision log under the names that training gave them.

    Args:
        directory: where `dataset.yaml` goes.
        dataset: what was trained on.

    Raises:
        InputError: pictures are named by paths from the dataset's own directory,
            which would lead elsewhere from the new one.
    """
    for feature in dataset.fields("creative"):
        if feature.kind == "image" and _is_path(dataset, feature):
            raise InputError(
                "pictures are named by path: write the dataset beside them by hand",
                source=dataset.path,
                field=feature.name,
                rule="picture_paths",
            )
    entities = {k: v for k, v in dataset.columns.items() if k != "impressions"}
    write_dataset(
        directory,
        tables={**dataset.tables, "impressions": "impressions/"},
        features=dataset.features,
        shared_vocabularies=dataset.shared_vocabularies,
        columns=entities,
    )


def _is_path(dataset: Dataset, feature: FeatureDeclaration) -> bool:
    source = dataset.columns.get("creatives", {}).get(feature.column)
    name = source.column if source else feature.column
    files = dataset.files("creatives")
    return bool(files) and pa.types.is_string(file_schema(files[0]).field(name).type)


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read: {error}", source=str(path), rule="readable"
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(
            f"is not YAML: {error}", source=str(path), rule="readable"
        ) from error
    if not isinstance(content, dict):
        raise InputError("must hold keys", source=str(path), rule="readable")
    return content


def _absolute(tables: Mapping[str, str], root: Path) -> dict[str, str]:
    return {
        name: place if "://" in place else os.path.abspath(root / place)
        for name, place in tables.items()
    }
