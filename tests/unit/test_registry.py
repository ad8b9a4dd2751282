"""What the registry promises about releases."""

import pytest

from cacs_ray.errors import InputError
from cacs_ray.manifest import write_manifest
from cacs_ray.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry


@pytest.fixture
def registry(mlflow_uri):
    return Registry(mlflow_uri)


@pytest.fixture
def make_bundle(tmp_path):
    """Write a bundle of one small file."""

    def make(content):
        root = tmp_path / f"bundle-{content}"
        root.mkdir()
        (root / "config.json").write_text(f'{{"content": "{content}"}}')
        write_manifest(root, "fingerprint", {})
        return root

    return make


def aliases(registry):
    """Return alias -> version."""
    found = {name: registry.find(name) for name in (CHAMPION, CHALLENGER, PREVIOUS)}
    return {name: release and release.version for name, release in found.items()}


def test_a_new_bundle_is_the_challenger_only(registry, make_bundle):
    release = registry.register(make_bundle("a"), tags={"dataset": "market"})
    assert release.tags["dataset"] == "market"
    assert aliases(registry) == {CHAMPION: None, CHALLENGER: "1", PREVIOUS: None}


def test_the_same_bundle_is_registered_once(registry, make_bundle):
    bundle = make_bundle("a")
    assert registry.register(bundle).version == registry.register(bundle).version


def test_the_old_champion_is_remembered_and_comes_back(registry, make_bundle):
    first = registry.register(make_bundle("a"))
    registry.promote(first.version)
    registry.tag(first.version, {"gate": "passed"})
    second = registry.register(make_bundle("b"))
    registry.promote(second.version)
    assert aliases(registry)[CHAMPION] == second.version
    assert aliases(registry)[PREVIOUS] == first.version

    assert registry.roll_back().bundle_id == first.bundle_id

    assert aliases(registry)[CHAMPION] == first.version
    assert registry.find().tags["gate"] == "passed"


def test_promoting_the_champion_again_keeps_the_previous_one(registry, make_bundle):
    first = registry.register(make_bundle("a"))
    second = registry.register(make_bundle("b"))
    for version in (first.version, second.version, second.version):
        registry.promote(version)
    assert aliases(registry)[PREVIOUS] == first.version


def test_without_a_previous_version_there_is_no_way_back(registry, make_bundle):
    registry.promote(registry.register(make_bundle("a")).version)
    with pytest.raises(InputError, match="previous_version"):
        registry.roll_back()


def test_a_release_can_be_fetched_after_its_origin_is_gone(
    registry, make_bundle, tmp_path
):
    bundle = make_bundle("a")
    release = registry.register(bundle)
    (bundle / "config.json").unlink()
    fetched = registry.fetch(release, tmp_path / "cache")
    assert (fetched / "config.json").read_text() == '{"content": "a"}'


def test_a_report_is_kept_with_its_version(registry, make_bundle, tmp_path):
    report = tmp_path / "report.json"
    report.write_text('{"rows": 3}')
    with_report = registry.register(make_bundle("a"), report=report)
    without = registry.register(make_bundle("b"))
    assert registry.report(with_report) == {"rows": 3}
    assert registry.report(without) is None


def test_a_stored_file_that_was_changed_is_refused(registry, make_bundle, tmp_path):
    release = registry.register(make_bundle("a"))
    stored = registry.fetch(release, tmp_path / "cache")
    (stored / "config.json").write_text('{"content": "b"}')
    with pytest.raises(InputError, match="digest"):
        registry.fetch(release, tmp_path / "cache")


def test_a_stored_bundle_exchanged_as_a_whole_is_refused(
    registry, make_bundle, tmp_path
):
    release = registry.register(make_bundle("a"))
    stored = registry.fetch(release, tmp_path / "cache")
    other = make_bundle("b")
    for name in ("config.json", "manifest.json"):
        (stored / name).write_bytes((other / name).read_bytes())
    with pytest.raises(InputError, match="registered"):
        registry.fetch(release, tmp_path / "cache")


def test_a_damaged_bundle_is_not_registered(registry, make_bundle):
    bundle = make_bundle("a")
    (bundle / "config.json").write_text("{}")
    with pytest.raises(InputError, match="digest"):
        registry.register(bundle)
    assert registry.find(CHALLENGER) is None
