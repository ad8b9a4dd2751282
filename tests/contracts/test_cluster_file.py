"""What cluster.yaml promises, without a cloud."""

from pathlib import Path

import pytest
import yaml

FILE = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def cluster():
    return yaml.safe_load(FILE.read_text())


def test_it_follows_rays_schema(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_every_node_asks_for_the_token(cluster):
    for role in ("head", "worker"):
        start = cluster[f"{role}_start_ray_commands"][-1]
        assert "RAY_AUTH_MODE=token" in start


def test_the_dashboard_stays_on_the_head(cluster):
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]


def test_the_lock_files_it_copies_exist(cluster):
    locks = [name for name in cluster["file_mounts"].values() if "lock" in name]
    assert len(locks) == 2
    assert all((FILE.parent / name).is_file() for name in locks)
