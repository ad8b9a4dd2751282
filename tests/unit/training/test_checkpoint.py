"""What checkpoints promise."""

import numpy as np
import pytest
import torch

from cacs_ray.training.checkpoint import (
    CheckpointStore,
    TornCheckpointError,
    read_state,
)


def tensors(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"w": torch.full((3,), value)}, "best": {}, "optimizer": {}}


@pytest.fixture
def store(tmp_path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "checkpoints", "mine")
    for step in (1, 2, 3):
        store.save(step, tensors(float(step)), {"step": step})
    return store


def test_the_newest_is_used_and_only_the_last_two_are_kept(store):
    latest = store.latest()
    assert latest is not None
    assert latest.progress == {"step": 3}
    assert latest.tensors["model"]["w"].tolist() == [3.0] * 3
    assert len(list(store.directory.iterdir())) == 2


def test_another_runs_checkpoints_are_ignored(store):
    assert CheckpointStore(store.directory, "other").latest() is None


def test_a_directory_that_is_being_written_is_no_checkpoint(store):
    (store.directory / "step-000000009.partial-7").mkdir()
    latest = store.latest()
    assert latest is not None
    assert latest.progress == {"step": 3}


def damages(seed: int) -> tuple[str, float, int]:
    """File, place (as a share) and what is done there: -1 cuts, else flips a bit."""
    rng = np.random.default_rng(seed)
    file = ["model.safetensors", "best.safetensors", "state.json"][seed % 3]
    return file, rng.random(), int(rng.integers(-1, 8))


@pytest.mark.parametrize("seed", range(200))
def test_any_damage_is_found_and_the_one_before_is_used(store, seed, caplog):
    name, share, bit = damages(seed)
    file = store.directory / "step-000000003" / name
    content = bytearray(file.read_bytes())
    place = int(share * len(content))
    if bit < 0:
        content = content[:place]
    else:
        content[place] ^= 1 << bit
    file.write_bytes(bytes(content))

    with pytest.raises(TornCheckpointError, match=file.parent.name):
        read_state(file.parent)
    latest = store.latest()

    assert latest is not None
    assert latest.progress == {"step": 2}
    assert name in caplog.text


def test_a_missing_file_is_damage(store):
    (store.directory / "step-000000003" / "best.safetensors").unlink()
    latest = store.latest()
    assert latest is not None
    assert latest.progress == {"step": 2}
