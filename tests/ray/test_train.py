"""What training on Ray Train promises: several workers, and a death among them."""

import numpy as np
import pytest
import safetensors.torch
import torch

from cacs_ray.training.reporter import PlainReporter
from cacs_ray.training.soft_labels import open_soft_labels, write_soft_labels
from cacs_ray.training.stage import Launch, StageInput, train_here
from cacs_ray.training.teacher import TeacherConfig, TeacherStage, train_teacher
from tests import synthetic_log
from tests.synthetic_log import (
    SPEC,
    loop_config,
    make_log,
    open_deadly,
    open_synthetic,
    ranker_config,
)

COUNTS = synthetic_log.counts(make_log())


def teacher_config(
    kind: str, listwise_click_weight: float = 1.0, **changes: object
) -> TeacherConfig:
    return TeacherConfig(
        model=ranker_config(kind),
        loop=loop_config(**changes),
        listwise_click_weight=listwise_click_weight,
    )


def test_local_mode_trains_in_this_process_and_tells_steps_and_epochs(tmp_path):
    inputs = StageInput("here", SPEC, COUNTS, open_synthetic)
    seen: dict[int, dict[str, float]] = {}
    launch = Launch(tmp_path, on_metrics=lambda step, m: seen.setdefault(step, m))
    result = train_teacher(inputs, teacher_config("none"), launch)
    assert result.num_steps == 16  # two epochs of 2000 rows in batches of 256
    assert sorted(seen) == [4, 8, 12, 16]
    assert (tmp_path / "model.safetensors").exists()


def test_two_workers_learn_what_one_learns(ray_local, tmp_path):
    inputs = StageInput("here", SPEC, COUNTS, open_synthetic)
    # Coins fall by row, and every mean is over the rows of both workers.
    config = teacher_config("learnt")
    alone = train_here(TeacherStage(inputs, config), PlainReporter(), None)
    seen: list[dict[str, float]] = []
    launch = Launch(tmp_path, 2, lambda _, metrics: seen.append(metrics))

    together = train_teacher(inputs, config, launch)

    assert together.num_steps == alone.num_steps
    for name, value in alone.metrics.items():
        assert together.metrics[name] == pytest.approx(value, abs=2e-6), name
    assert [m for m in seen if "validation/loss" in m]


def test_a_killed_worker_goes_on_to_the_same_weights_bit_for_bit(ray_local, tmp_path):
    config = teacher_config("frequency", checkpoint_every_steps=2)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    whole = StageInput(str(tmp_path), SPEC, COUNTS, open_synthetic)
    train_here(TeacherStage(whole, config), PlainReporter(), undisturbed)
    deadly = StageInput(str(tmp_path), SPEC, COUNTS, open_deadly)

    launch = Launch(killed, 1, checkpoint_dir=tmp_path / "checkpoints")
    train_teacher(deadly, config, launch)

    assert (tmp_path / "died").exists()
    expected = safetensors.torch.load_file(undisturbed / "model.safetensors")
    actual = safetensors.torch.load_file(killed / "model.safetensors")
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name


def test_soft_labels_do_not_depend_on_the_number_of_tasks(ray_local, tmp_path):
    inputs = StageInput("here", SPEC, COUNTS, open_synthetic)
    stage = TeacherStage(inputs, teacher_config("none"))
    train_here(stage, PlainReporter(), tmp_path)
    labels = [
        open_soft_labels(
            write_soft_labels(
                inputs,
                tmp_path,
                "train",
                tmp_path / f"{n}.npy",
                num_tasks=n,
                rows_at_once=300,
            )
        )
        for n in (0, 3)
    ]
    assert np.array_equal(labels[0], labels[1])
    assert labels[0].any(axis=0).tolist() == [True] * 4 + [False]
