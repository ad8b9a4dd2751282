"""Fitted features as files: JSON and Parquet, in a store and in a bundle alike."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cacs_ray.errors import naming_file
from cacs_ray.features.catalogue import Catalogue
from cacs_ray.features.spec import FeatureSpec
from cacs_ray.features.vocabulary import Vocabulary
from cacs_ray.schema import Side

ENTITY_SIDES: Mapping[str, Side] = {
    "users": "user",
    "ads": "ad",
    "creatives": "creative",
}
"""Entity tables as they are named on disk, and the side of each."""


@dataclass(frozen=True, slots=True)
class FittedFeatures:
    """What fitting leaves: the spec, its vocabularies, the counted catalogue."""

    spec: FeatureSpec
    vocabularies: Mapping[str, Vocabulary]
    catalogue: Catalogue


def write_fitted(out: Path, fitted: FittedFeatures) -> None:
    """Write spec.json, vocabularies/ and catalogue/ into an existing directory."""
    (out / "vocabularies").mkdir()
    (out / "catalogue").mkdir()
    (out / "spec.json").write_text(fitted.spec.model_dump_json(indent=1))
    for name, vocabulary in fitted.vocabularies.items():
        pq.write_table(vocabulary.to_table(), out / "vocabularies" / f"{name}.parquet")
    write_catalogue(out / "catalogue", fitted.catalogue)


def read_fitted(directory: Path) -> FittedFeatures:
    """Read what `write_fitted` wrote.

    Raises:
        InputError: a file is missing, torn or something else; it is named.
    """
    spec = read_spec(directory / "spec.json")
    vocabularies = {
        known.name: Vocabulary.from_table(
            known, _read_table(directory / "vocabularies" / f"{known.name}.parquet")
        )
        for known in spec.vocabularies
    }
    return FittedFeatures(spec, vocabularies, read_catalogue(directory / "catalogue"))


def read_spec(path: Path) -> FeatureSpec:
    """Read a fitted spec.

    Raises:
        InputError: the file is missing, torn or no spec of this version.
    """
    with _naming(path):
        return FeatureSpec.model_validate_json(path.read_bytes())


def write_catalogue(out: Path, catalogue: Catalogue) -> None:
    """Write creatives.parquet, ads.parquet and prior.json into a directory."""
    creatives, ads = catalogue.to_tables()
    pq.write_table(creatives, out / "creatives.parquet")
    pq.write_table(ads, out / "ads.parquet")
    alpha, beta = catalogue.prior
    (out / "prior.json").write_text(json.dumps({"alpha": alpha, "beta": beta}))


def read_catalogue(directory: Path) -> Catalogue:
    """Read what `write_catalogue` wrote.

    Raises:
        InputError: a file is missing, torn or something else; it is named.
    """
    path = directory / "prior.json"
    with _naming(path):
        prior = json.loads(path.read_bytes())
    return Catalogue.from_kept_tables(
        _read_table(directory / "creatives.parquet"),
        _read_table(directory / "ads.parquet"),
        (prior["alpha"], prior["beta"]),
    )


def _read_table(file: Path) -> pa.Table:
    with _naming(file):
        return pq.read_table(file)


def _naming(path: Path) -> AbstractContextManager[None]:
    """What is not JSON, Parquet or of its schema is told by the name of its file."""
    return naming_file(path, "cannot be read", OSError, ValueError)
