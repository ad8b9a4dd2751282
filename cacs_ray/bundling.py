"""Writing a bundle: what training hands over becomes one directory.

What is in it stands in `bundle`; it is opened there too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file
from torch import Tensor

from cacs_ray.bundle import PROFILE, Predictor
from cacs_ray.data.files import atomic_directory
from cacs_ray.features.context import Entities
from cacs_ray.features.kept import ENTITY_SIDES, FittedFeatures, write_fitted
from cacs_ray.features.profile import Profile
from cacs_ray.golden import write_golden
from cacs_ray.manifest import write_manifest, write_plain_json
from cacs_ray.models.calibration import Calibration


@dataclass(frozen=True, slots=True)
class BundleParts:
    """What training hands over to be bundled."""

    fitted: FittedFeatures
    entities: Entities
    user_ids: pa.Table
    model_directories: Mapping[str, Path]
    """selector, ranker, teacher -> directory with model.safetensors, config.json"""
    creative_vectors: Tensor
    calibration: Calibration
    config: Mapping[str, Any]
    lineage: Mapping[str, Any]
    """Dataset digest, windows, git commit, versions, time of making."""
    profile: Profile
    """What the training window looks like, for the gate of a later release."""


def write_bundle(out: Path, parts: BundleParts) -> str:
    """Write a bundle, whole or not at all.

    Returns:
        The bundle id: 16 hex digits of the digest of its files, so equal training
        gives equal ids.
    """
    with atomic_directory(out) as root:
        write_fitted(root, parts.fitted)
        write_plain_json(root / "config.json", parts.config)
        write_plain_json(root / "calibration.json", parts.calibration.model_dump())
        (root / "entities").mkdir()
        for name in ENTITY_SIDES:
            arrays = {k: np.array(v) for k, v in getattr(parts.entities, name).items()}
            save_file(arrays, root / "entities" / f"{name}.safetensors")
        pq.write_table(parts.user_ids, root / "entities" / "user_ids.parquet")
        for name, directory in parts.model_directories.items():
            (root / name).mkdir()
            for file in ("model.safetensors", "config.json"):
                (root / name / file).write_bytes((directory / file).read_bytes())
        vectors = {"vectors": parts.creative_vectors.contiguous().numpy()}
        save_file(vectors, root / "creative_vectors.safetensors")
        write_plain_json(root / PROFILE, parts.profile.model_dump())
        unsealed = {
            "bundle_id": "",
            "spec_fingerprint": parts.fitted.spec.fingerprint,
            "lineage": parts.lineage,
        }
        write_golden(root, Predictor.of_files(root, unsealed))
        return write_manifest(root, parts.fitted.spec.fingerprint, parts.lineage)
