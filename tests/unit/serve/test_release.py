"""What the gateway reads of a bundle, and the request that proves it works."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from cacs_ray.data.files import sha256_file
from cacs_ray.errors import InputError
from cacs_ray.features.kept import write_catalogue
from cacs_ray.features.spec import FeatureSpec
from cacs_ray.manifest import FORMAT
from serve.release import load_release, microseconds

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def bundle(tmp_path, release):
    (tmp_path / "catalogue").mkdir()
    write_catalogue(tmp_path / "catalogue", release.catalogue)
    spec = FeatureSpec(fields=release.fields, vocabularies=())
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    (tmp_path / "manifest.json").write_text(
        json.dumps(
            {
                "format": FORMAT,
                "bundle_id": "r1",
                "files": {
                    path.relative_to(tmp_path).as_posix(): {"sha256": sha256_file(path)}
                    for path in files
                },
            }
        )
    )
    return tmp_path


def test_it_is_read_without_the_models(bundle, release):
    read = load_release(bundle)
    assert read.bundle_id == "r1"
    assert read.catalogue.creative_ids == release.catalogue.creative_ids
    assert read.catalogue.prior == release.catalogue.prior
    assert read.columns.names == ["device", "query", "hour", "taste", "seen"]


@pytest.mark.parametrize(
    "name", ["spec.json", "catalogue/creatives.parquet", "catalogue/prior.json"]
)
def test_a_changed_file_is_refused_by_name(bundle, name):
    with open(bundle / name, "ab") as file:
        file.write(b" ")
    with pytest.raises(InputError, match=name):
        load_release(bundle)


@pytest.mark.parametrize(
    ("live_from", "live_until", "expected"),
    [
        ("2020-01-01", "2030-01-01", "2026-01-02"),
        ("2026-06-01", "2030-01-01", "2026-06-01"),
        ("2020-01-01", "2025-01-01", "2025-01-01"),
    ],
)
def test_the_golden_request_asks_at_a_moment_with_something_to_show(
    release, live_from, live_until, expected
):
    def moment(day):
        return microseconds(datetime.fromisoformat(day).replace(tzinfo=UTC))

    window = {"live_from_us": live_from, "live_until_us": live_until}
    catalogue = replace(
        release.catalogue,
        **{name: np.full(5, moment(day)) for name, day in window.items()},
    )

    golden = replace(release, catalogue=catalogue).golden_request(NOW)

    ts_us = microseconds(golden.request_ts)
    # The last moment of a window is one microsecond before its end.
    assert ts_us in (moment(expected), moment(expected) - 1)
    rows = catalogue.ad_row([c.ad_id for c in golden.candidates])
    assert catalogue.lists(rows, np.full(len(rows), ts_us)).any(axis=1).all()
