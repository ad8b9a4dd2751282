"""Bundles beside the one under test: a whole one that scores differently, a broken one.

Nothing is trained for them; what differs is enough to tell by an answer which bundle
gave it.
"""

import shutil
from pathlib import Path
from typing import Final

from safetensors.numpy import load_file, save_file

from cacs_ray.bundle import Predictor
from cacs_ray.data.files import atomic_directory, read_json
from cacs_ray.golden import write_golden
from cacs_ray.manifest import read_manifest, write_manifest, write_plain_json

_SCALE: Final = 0.05
"""Added to 1, by distance, for the factor of the creative vectors: selector and ranker
both read them."""
_SHIFT: Final = 0.05
"""Added to the calibration, in logits, by distance."""


def write_sibling(bundle: Path, out: Path, *, distance: int = 1) -> str:
    """Write a whole bundle whose selector scores and CTRs all differ a little.

    Args:
        bundle: the one under test.
        out: where to; an old one is replaced.
        distance: how far it is from `bundle`, > 0: two that are told apart have
            different ones.

    Returns:
        Its bundle id.

    Raises:
        InputError: `bundle` is not one.
    """
    manifest = read_manifest(bundle)
    with atomic_directory(out) as root:
        shutil.copytree(bundle, root, dirs_exist_ok=True)
        (root / "manifest.json").unlink()
        scale = 1 + distance * _SCALE
        vectors = load_file(root / "creative_vectors.safetensors")
        scaled = {name: array * scale for name, array in vectors.items()}
        save_file(
            {name: array.astype(vectors[name].dtype) for name, array in scaled.items()},
            root / "creative_vectors.safetensors",
        )
        calibration = read_json(root / "calibration.json")
        calibration["intercept"] += distance * _SHIFT
        write_plain_json(root / "calibration.json", calibration)
        write_golden(root, Predictor.of_files(root, {**manifest, "bundle_id": ""}))
        return write_manifest(root, manifest["spec_fingerprint"], manifest["lineage"])


def write_broken(bundle: Path, out: Path) -> None:
    """Copy a bundle and flip one bit of its selector's weights."""
    with atomic_directory(out) as root:
        shutil.copytree(bundle, root, dirs_exist_ok=True)
        weights = root / "selector" / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
