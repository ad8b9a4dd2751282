"""The gate on whole bundles: a worse one is refused, one as good or better passes."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cacs_ray.bundle import Predictor
from cacs_ray.golden import write_golden
from cacs_ray.manifest import read_manifest, write_manifest
from cacs_ray.promises.siblings import write_sibling
from cacs_ray.registry import PREVIOUS, Registry, model_name
from jobs import promote


def champion(uri, bundle, alias="champion"):
    """Return the id of the bundle that serves."""
    found = Registry(uri, model_name(read_manifest(bundle))).find(alias)
    return found and found.bundle_id


def changed(bundle, out, change):
    """Copy a bundle, change its files, and seal it as a cycle would."""
    shutil.copytree(bundle, out)
    manifest = read_manifest(out)
    (out / "manifest.json").unlink()
    change(out)
    write_golden(out, Predictor.of_files(out, {**manifest, "bundle_id": ""}))
    write_manifest(out, manifest["spec_fingerprint"], manifest["lineage"])
    return out


def shuffle_selector(root):
    """Put the towers' weights in another order: the selector then chooses by chance.

    The tables stay: their rows of unknown values are zero in any bundle.
    """
    file = root / "selector" / "model.safetensors"
    rng = np.random.default_rng(0)
    weights = load_file(file)
    towers = {k: rng.permuted(v) for k, v in weights.items() if "_tower." in k}
    assert towers
    save_file(weights | towers, file)


def promise_too_much(root):
    """Move the calibration by one logit: nearly three times the clicks."""
    file = root / "calibration.json"
    calibration = json.loads(file.read_text())
    calibration["intercept"] += 1.0
    file.write_text(json.dumps(calibration))


def verdict_of(bundle):
    """Return the checks that failed, from what the gate wrote."""
    kept = json.loads((bundle.parent / "gate" / "gate.json").read_text())
    return {check["name"] for check in kept["checks"] if not check["passed"]}, kept


# Drift of so small a log, and a machine that is busy with other tests, are not what
# these tests ask about.
RELAXED = ["--set", "max_drift=1", "max_id_drift=1"]
RELAXED += ["measured.max_p50_ratio=10", "measured.max_p99_ratio=100"]


def gate_of(walk, root, champion_bundle):
    """Return a registry of its own with a champion, and its gate."""
    uri = f"sqlite:///{root}/mlflow.db"
    options = ["--tracking-uri", uri, "--logs", str(walk / "market")]

    def put(bundle, *more):
        return promote.main(["--bundle", str(bundle), *options, *more])

    registry = Registry(uri, model_name(read_manifest(champion_bundle)))
    registry.promote(registry.register(champion_bundle).version)
    return uri, put


@pytest.fixture(scope="module")
def gate(walk, tmp_path_factory):
    """A registry of its own whose champion is the walk's bundle."""
    return gate_of(walk, tmp_path_factory.mktemp("gate"), walk / "run" / "bundle")


@pytest.mark.parametrize(
    ("change", "check"),
    [(shuffle_selector, "choice all"), (promise_too_much, "log_loss all")],
)
def test_a_worse_bundle_never_gets_the_alias(walk, gate, tmp_path, change, check):
    uri, put = gate
    bundle = walk / "run" / "bundle"
    before = champion(uri, bundle)
    worse = changed(bundle, tmp_path / "worse" / "bundle", change)

    assert put(worse) == 1

    failed, kept = verdict_of(worse)
    assert check in failed
    assert kept["measured"]["replica"]["error"] is None
    assert champion(uri, bundle) == before
    assert champion(uri, bundle, "challenger") == read_manifest(worse)["bundle_id"]


def test_one_as_good_takes_over_and_goes_back(walk, gate, tmp_path, capsys):
    uri, put = gate
    bundle = walk / "run" / "bundle"
    before = champion(uri, bundle)
    other = tmp_path / "other" / "bundle"
    bundle_id = write_sibling(bundle, other)

    assert put(other, "--dry-run", *RELAXED) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["would_promote"], last["reason"]
    assert champion(uri, bundle) == before

    assert put(other, *RELAXED) == 0
    failed, kept = verdict_of(other)
    assert failed == set()
    assert kept["measured"]["replica"]["requests"] >= 400
    assert set(kept["measured"]["replica"]["ratio"]) == {"p50", "p99"}
    assert champion(uri, bundle) == bundle_id

    assert put(bundle, "--rollback") == 0
    assert champion(uri, bundle) == before
    assert champion(uri, bundle, PREVIOUS) == bundle_id


def test_a_better_one_takes_over(walk, tmp_path):
    bundle = walk / "run" / "bundle"
    worse = changed(bundle, tmp_path / "worse" / "bundle", shuffle_selector)
    uri, put = gate_of(walk, tmp_path, worse)
    better = tmp_path / "better" / "bundle"
    shutil.copytree(bundle, better)

    assert put(better, *RELAXED) == 0

    _, kept = verdict_of(better)
    assert kept["measured"]["slices"]["all"]["choice_lift"]["low"] > 0
    assert champion(uri, bundle) == read_manifest(bundle)["bundle_id"]
