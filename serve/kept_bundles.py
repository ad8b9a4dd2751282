"""The service's own copies of the bundles it holds, beside the release board.

Who trains again into the same directory replaces a bundle that may be live. A replica
that starts later loads from here, and so what the others hold.

    kept/<bundle id>/<name>/   one bundle

Links would be cheaper, but who copies over a file writes through them. A copy takes
less time than the digests that are checked anyway.
"""

import os
import shutil
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from cacs_ray.data.files import atomic_directory
from cacs_ray.errors import InputError
from cacs_ray.manifest import MANIFEST, verify_bundle


class KeptBundles:
    """Bundles by their id.

    Args:
        directory: on a file system that all nodes see.
        unused_s: so long a bundle stays that nobody names.
    """

    def __init__(self, directory: Path, *, unused_s: float) -> None:
        self._directory, self._unused_s = directory, unused_s

    def keep(self, root: Path) -> tuple[str, Path]:
        """Return the id of a bundle, and where its copy is.

        Only what the manifest lists is taken.

        Raises:
            InputError: not a whole bundle.
        """
        manifest = verify_bundle(root)
        bundle_id = str(manifest["bundle_id"])
        place = self._directory / bundle_id / root.name
        self._directory.mkdir(parents=True, exist_ok=True)
        # Two copies of one bundle at a time would be in each other's way.
        with FileLock(self._directory.with_suffix(".lock")):
            # Anew in use, and so before it is read: not what nobody has named for long.
            with suppress(FileNotFoundError):
                os.utime(place.parent)
            if not _is_whole(place):
                _copy(root, place, (MANIFEST, *manifest["files"]))
        return bundle_id, place

    def drop_unused(self, named: Collection[str]) -> None:
        """Remove copies that no name leads to, unless they are new.

        What was just copied may not be on the board yet.
        """
        for place in self._directory.glob("*"):
            try:
                age_s = time.time() - place.stat().st_mtime
            except FileNotFoundError:
                continue
            if place.name not in named and age_s > self._unused_s:
                shutil.rmtree(place, ignore_errors=True)


def _copy(root: Path, place: Path, names: Iterable[str]) -> None:
    with atomic_directory(place) as partial:
        for name in names:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, partial / name)


def _is_whole(place: Path) -> bool:
    try:
        verify_bundle(place)
    except InputError:
        return False
    return True
