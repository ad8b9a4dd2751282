"""What training selector and ranker together promises."""

import dataclasses

import numpy as np
import pytest
import torch

from cacs_ray.models.ranker import Ranker
from cacs_ray.models.saved import load_ranker, load_selector
from cacs_ray.models.selector import Selector
from cacs_ray.training.joint import SELECTOR, JointStage, JointStep
from cacs_ray.training.ranker import RankerStage, ServingRankerConfig, log_vectors
from cacs_ray.training.reporter import PlainReporter
from cacs_ray.training.stage import StageInput, train_here
from cacs_ray.training.steps import RankerStep, StudentStep
from cacs_ray.training.student import StudentStage
from cacs_ray.training.teacher import TeacherConfig, TeacherStage
from tests import synthetic_log
from tests.synthetic_log import (
    SPEC,
    clicks_student,
    loop_config,
    make_log,
    open_synthetic,
    ranker_config,
    selector_config,
)

PLAIN = PlainReporter()
STUDENT = clicks_student(num_epochs=1)
RANKER = ServingRankerConfig(
    model=ranker_config(sharing="joint", keeps_own_fields=False, blank_share=0.1),
    loop=loop_config(num_epochs=1),
    is_warm_started=True,
)


def make_step(click_weight: float = 1.0) -> JointStep:
    selector = Selector(SPEC, selector_config("none"), synthetic_log.counts())
    config = ranker_config("none", sharing="joint", keeps_own_fields=False)
    ranker = Ranker(SPEC, config, synthetic_log.counts(), selector.config)
    student = StudentStep(
        selector,
        "listwise",
        distillation_weight=2.0,
        click_weight=click_weight,
        listwise_click_weight=0.0,
        temperature=1.0,
    )
    return JointStep(student, RankerStep(ranker)).eval()


@pytest.fixture
def batch():
    batch = make_log(80).batch(np.arange(80))
    teacher = torch.randn(batch.creative_index.shape)
    return dataclasses.replace(batch, teacher_logits=teacher)


def test_the_loss_is_the_sum_of_both(batch):
    step = make_step(click_weight=0.5)
    vectors = step.student.selector.creative_vectors(batch.creatives)
    ours = step.student.parts(batch)
    theirs = step.ranker.parts(batch, vectors)
    expected = (
        theirs["click_loss"]
        + 0.5 * ours["click_loss"]
        + 2.0 * ours["distillation_loss"]
    )
    assert step(batch)["loss"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("by", ["ranker", "selector"])
def test_either_loss_trains_the_creative_tower(batch, by):
    step = make_step()
    name = "click_loss" if by == "ranker" else "selector_click_loss"
    step.parts(batch)[name].backward()
    tower = step.student.selector.creative_tower.straight.weight.grad
    assert tower is not None
    assert tower.abs().sum() > 0
    # The user tower belongs to the selector alone.
    users = step.student.selector.user_tower.straight.weight.grad
    assert (users is not None) == (by == "selector")


def test_every_part_has_its_total(batch):
    step = make_step()
    assert set(step.parts(batch)) == set(step.totals(batch))


def test_what_is_left_is_a_selector_and_a_ranker_that_reads_its_vectors(tmp_path):
    inputs = StageInput(
        str(tmp_path), SPEC, synthetic_log.counts(make_log()), open_synthetic
    )
    teacher = TeacherConfig(
        model=ranker_config(),
        loop=loop_config(num_epochs=1),
        listwise_click_weight=0.0,
    )
    train_here(TeacherStage(inputs, teacher), PLAIN, tmp_path / "teacher")
    train_here(StudentStage(inputs, STUDENT, None), PLAIN, tmp_path / "student")
    stage = JointStage(
        RankerStage(inputs, RANKER, tmp_path / "student", tmp_path / "teacher"),
        STUDENT,
        None,
    )

    result = train_here(stage, PLAIN, tmp_path / "ranker")

    log = open_synthetic("x", "validation")
    before = load_selector(tmp_path / "student", SPEC)
    after = load_selector(tmp_path / "ranker" / SELECTOR, SPEC)
    moved = log_vectors(after, log)
    assert not torch.equal(moved, log_vectors(before, log))
    batch = log.batch(np.arange(len(log)))
    with torch.no_grad():
        logits = load_ranker(tmp_path / "ranker", SPEC)(
            batch.context,
            batch.creatives,
            batch.creative_index,
            batch.slot,
            moved[batch.catalogue_rows],
        )
    shown = logits.gather(1, batch.shown_index.unsqueeze(1)).squeeze(1)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        shown, batch.label, weight=batch.weight, reduction="sum"
    )
    # Both are read from disk: what was judged in training is what serving would do.
    assert result.metrics["validation/click_loss"] == pytest.approx(
        (loss / batch.weight.sum()).item(), rel=1e-4
    )
    assert result.metrics["validation/selector_click_loss"] < np.log(2)
