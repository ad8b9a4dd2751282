"""The bundle that a warm start goes on from, kept with the run.

The run's own bundle takes the place of the one it was started from; a copy makes sure
that a run that is started again goes on from the same models.
"""

import logging
import shutil
from pathlib import Path

from cacs_ray.data.files import atomic_directory, read_json, write_json
from cacs_ray.manifest import verify_bundle

log = logging.getLogger(__name__)


def keep_earlier(bundle: Path, kept: Path, digest: str) -> Path:
    """Return a copy of a bundle, made once for each state of the dataset.

    Args:
        bundle: what to start from; may be the run's own, from the day before.
        kept: directory for the copy.
        digest: of the dataset. While it is the same, the first copy stands, also
            when `bundle` was replaced since.

    Raises:
        InputError: not a whole bundle.
    """
    note = kept / "from.json"
    if note.is_file() and read_json(note)["dataset"] == digest:
        return kept / "bundle"
    manifest = verify_bundle(bundle)
    with atomic_directory(kept) as partial:
        shutil.copytree(bundle, partial / "bundle")
        write_json(partial / "from.json", {"dataset": digest, "bundle": str(bundle)})
    log.info("warm start  from %s", manifest["bundle_id"])
    return kept / "bundle"
