"""The manifest of a bundle: the digest of every file, written last, checked first."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cacs_ray.data.files import read_json, sha256_file
from cacs_ray.errors import InputError

FORMAT = 1
MANIFEST = "manifest.json"


def write_manifest(root: Path, fingerprint: str, lineage: Mapping[str, Any]) -> str:
    """Write manifest.json over every file of a directory; return the bundle id."""
    files = {
        path.relative_to(root).as_posix(): {
            "sha256": sha256_file(path),
            "bytes": path.stat().st_size,
        }
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    bundle_id = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
    manifest = {
        "format": FORMAT,
        "bundle_id": bundle_id,
        "spec_fingerprint": fingerprint,
        "lineage": dict(lineage),
        "files": files,
    }
    write_plain_json(root / MANIFEST, manifest)
    return bundle_id


def write_plain_json(path: Path, value: object) -> None:
    """Write JSON into a directory that is not visible yet."""
    path.write_text(json.dumps(value, indent=1, default=str) + "\n")


def read_manifest(root: Path) -> dict[str, Any]:
    """Read a bundle's manifest; `InputError` when this is not a bundle."""
    path = root / MANIFEST
    if not path.is_file():
        raise InputError(
            "not a bundle: it has no manifest.json", source=str(root), rule="bundle"
        )
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(
            f"bundle format must be {FORMAT}", source=str(path), rule="bundle_format"
        )
    return manifest


def verify_bundle(path: str | Path) -> dict[str, Any]:
    """Check every file of a bundle against its digest; return the manifest.

    Raises:
        InputError: a listed file is missing, changed or outside the bundle.
    """
    root = Path(path)
    manifest = read_manifest(root)
    listed = manifest["files"]
    for name, entry in listed.items():
        file = root / name
        if ".." in Path(name).parts or Path(name).is_absolute() or file.is_symlink():
            raise InputError(
                "a listed path leaves the bundle", source=str(file), rule="path"
            )
        if not file.is_file():
            raise InputError("a file is missing", source=str(file), rule="digest")
        if sha256_file(file) != entry["sha256"]:
            raise InputError(
                "the file is not the one that was written (its digest differs)",
                source=str(file),
                rule="digest",
            )
    expected = hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]
    if manifest["bundle_id"] != expected:
        raise InputError(
            "the bundle id does not belong to these files",
            source=str(root / MANIFEST),
            field="bundle_id",
            rule="digest",
        )
    return manifest
