"""Today's creatives in yesterday's bundle: new vectors, the same models."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from cacs_ray.bundle import Predictor, read_profile
from cacs_ray.bundling import BundleParts, write_bundle
from cacs_ray.data.dataset import Dataset, read_dataset
from cacs_ray.data.entities import read_entities
from cacs_ray.data.files import atomic_directory, read_json
from cacs_ray.errors import InputError
from cacs_ray.recipes.content import DatasetContent
from cacs_ray.schema import Column, Side


def refresh_bundle(
    bundle: str | Path, logs: str | Path, out: str | Path
) -> dict[str, Any]:
    """Write a bundle with the creatives, ads and users that a dataset has now.

    Nothing is trained: creatives that training saw keep their counts, new ones get
    the vector that the creative tower makes of their content. The log is not read.

    Args:
        bundle: whose models are kept.
        logs: a dataset with the same declared features.
        out: gets `bundle/`, and `rejects/` with the entities that break a rule.

    Returns:
        The new bundle's id, and how many creatives it has and how many are new.

    Raises:
        InputError: not a whole bundle, the dataset lacks a declared feature, or no
            creative is left.
    """
    root, before = Path(out).absolute(), Predictor.load(bundle)
    dataset = read_dataset(logs)
    _refuse_other_features(dataset, before)
    with atomic_directory(root / "rejects") as rejects:
        entities = read_entities(dataset, rejects)
    if not entities.creatives.num_rows:
        raise InputError(
            "no creative is left", source=str(logs), field="creatives", rule="empty"
        )
    users = entities.users if "users" in dataset.tables else _known_users(before)
    tables: dict[Side, pa.Table] = {
        "creative": entities.creatives,
        "ad": entities.ads,
        "user": users,
    }
    content = DatasetContent(root / "work" / "content", dataset.root)
    now = before.with_entities(tables, content)
    path = Path(bundle)
    bundle_id = write_bundle(
        root / "bundle",
        BundleParts(
            fitted=now.fitted,
            entities=now.entities,
            user_ids=users.select([Column.USER_ID]),
            model_directories={n: path / n for n in ("selector", "ranker", "teacher")},
            creative_vectors=now.creative_vectors,
            calibration=now.calibration,
            config=read_json(path / "config.json"),
            lineage={**before.manifest["lineage"], "refreshed_from": before.bundle_id},
            profile=read_profile(path),
        ),
    )
    known = set(before.catalogue.creative_ids)
    new = sum(i not in known for i in now.catalogue.creative_ids)
    return {
        "bundle": str(root / "bundle"),
        "bundle_id": bundle_id,
        "refreshed_from": before.bundle_id,
        "creatives": len(now.catalogue.creative_ids) - 1,
        "new_creatives": new,
    }


def _known_users(before: Predictor) -> pa.Table:
    return pa.table({Column.USER_ID: pa.array(before.entities.user_index, pa.string())})


def _refuse_other_features(dataset: Dataset, before: Predictor) -> None:
    """Refuse a dataset that declares other features than the models read."""
    declared = {(f.of, f.name, f.kind) for f in dataset.features}
    trained = {(f.of, f.name, f.kind) for f in before.fitted.spec.fields}
    if declared != trained:
        raise InputError(
            f"features {sorted(declared ^ trained)} are in one of bundle and dataset",
            source=dataset.path,
            field="features",
            rule="trained_features",
        )
