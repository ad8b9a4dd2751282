"""Files that run code when they are unpickled, under names of ours: refused unread."""

import io
import os
import pickle
import re
import shutil

import pytest
import torch

from cacs_ray.bundle import Predictor, read_profile
from cacs_ray.data.files import read_json
from cacs_ray.errors import InputError
from cacs_ray.golden import replay_golden
from cacs_ray.manifest import read_manifest, write_manifest
from serve.release import load_release


class Trap:
    """Makes a directory where it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def pickled(marker):
    return pickle.dumps(Trap(marker))


def saved_by_torch(marker):
    """The same in the form that weights used to have."""
    file = io.BytesIO()
    torch.save(Trap(marker), file)
    return file.getvalue()


def open_all(bundle):
    """Read all that gateway, stages, reports and `jobs.refresh` read of a bundle."""
    load_release(bundle)
    replay_golden(bundle, Predictor.load(bundle))
    read_profile(bundle)
    read_json(bundle / "config.json")


@pytest.mark.parametrize(
    ("make", "load"),
    [
        (pickled, pickle.load),
        (saved_by_torch, lambda file: torch.load(file, weights_only=False)),
    ],
)
def test_the_traps_work(tmp_path, make, load):
    """The negative control: whoever unpickles them leaves the marker."""
    load(io.BytesIO(make(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("is_sealed", [False, True], ids=["changed", "sealed"])
@pytest.mark.parametrize("make", [pickled, saved_by_torch])
def test_no_file_of_a_bundle_runs_code(walk, tmp_path, make, is_sealed):
    """Not even one that the manifest vouches for."""
    marker, bundle = tmp_path / "marker", tmp_path / "bundle"
    shutil.copytree(walk / "run" / "bundle", bundle)
    open_all(bundle)
    manifest = read_manifest(bundle)
    for name in manifest["files"]:
        file = bundle / name
        whole = file.read_bytes()
        file.write_bytes(make(marker))
        if is_sealed:
            write_manifest(bundle, manifest["spec_fingerprint"], manifest["lineage"])

        with pytest.raises(InputError, match=re.escape(str(file))) as caught:
            open_all(bundle)

        assert (caught.value.rule == "digest") is not is_sealed, name
        assert not marker.exists(), name
        file.write_bytes(whole)
