"""Impressions without a click that count less: in learning alone, and honestly."""

import numpy as np
import pytest
import torch

from cacs_ray.errors import InputError
from cacs_ray.models.saved import load_ranker, load_selector
from cacs_ray.recipes.config import RECIPES, run_config
from cacs_ray.study.scoring import ranker_scores, score_lists, selector_scores
from cacs_ray.training.joint import JointStage
from cacs_ray.training.ranker import RankerStage, ServingRankerConfig
from cacs_ray.training.reporter import PlainReporter
from cacs_ray.training.stage import StageInput, train_here
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
)

PLAIN = PlainReporter()
STUDENT = clicks_student(num_epochs=3)
RANKER = ServingRankerConfig(
    model=ranker_config(), loop=loop_config(num_epochs=3), is_warm_started=False
)


@pytest.fixture
def stages(tmp_path):
    """Return what builds the stages of a weight, below a teacher and a student."""
    inputs = StageInput(
        str(tmp_path), SPEC, synthetic_log.counts(make_log()), open_synthetic
    )
    teacher = TeacherConfig(
        model=ranker_config(),
        loop=loop_config(num_epochs=0),
        listwise_click_weight=0.0,
    )
    student = STUDENT.override({"loop.num_epochs": 0})
    places = tmp_path / "student", tmp_path / "teacher"
    train_here(StudentStage(inputs, student, None), PLAIN, places[0])
    train_here(TeacherStage(inputs, teacher), PLAIN, places[1])

    def make(weight, sharing="own"):
        changes = {"negative_weight": weight}
        student, ranker = STUDENT.override(changes), RANKER.override(changes)
        ranker = ranker.override({"model.sharing": sharing})
        of_ranker = RankerStage(inputs, ranker, *places)
        return StudentStage(inputs, student, None), of_ranker

    return make


def click_parts(step) -> list[torch.Tensor]:
    batch = make_log(200).batch(np.arange(200))
    parts = step.parts(batch)
    return [part.detach() for name, part in parts.items() if "click_loss" in name]


@pytest.mark.parametrize("kind", ["student", "ranker", "joint"])
def test_training_weighs_negatives_and_judging_does_not(stages, kind):
    def step(weight):
        if kind == "joint":
            student, ranker = stages(weight, "joint")
            return JointStage(ranker, student.config, None).open().step
        return stages(weight)[kind == "ranker"].open().step

    plain, weighted = step(1.0), step(0.2)
    for is_training in (True, False):
        torch.manual_seed(0)
        before = click_parts(plain.train(is_training))
        torch.manual_seed(0)
        after = click_parts(weighted.train(is_training))
        assert len(before) == len(after) == (2 if kind == "joint" else 1)
        for one, other in zip(before, after, strict=True):
            assert torch.equal(one, other) == (not is_training)


@pytest.mark.parametrize("recipe", RECIPES)
def test_negatives_count_in_full_unless_one_says_otherwise(recipe):
    config = run_config(recipe)
    assert config.student.negative_weight == config.ranker.negative_weight == 1


@pytest.mark.parametrize("kind", ["student", "ranker"])
def test_models_promise_as_many_clicks_as_there_are(stages, kind, tmp_path):
    stage = stages(0.1)[kind == "ranker"]
    train_here(stage, PLAIN, tmp_path / "trained")

    log = open_synthetic("x", "train")
    if kind == "student":
        selector = load_selector(tmp_path / "trained", SPEC)
        _, logits = score_lists(log, lambda b: selector_scores(selector, b))
    else:
        ranker = load_ranker(tmp_path / "trained", SPEC)
        _, logits = score_lists(log, lambda b: ranker_scores(ranker, b, None))
    predicted = 1 / (1 + np.exp(-logits))
    # Nine in ten negatives are missing: uncorrected it would be far above 1.
    assert predicted.sum() / log.label.sum() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("stage", ["student", "ranker"])
@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("0", "greater_than"),
        ("-0.5", "greater_than"),
        ("1.5", "less_than_equal"),
        ("nan", "less_than_equal"),
        ("few", "float_parsing"),
    ],
)
def test_a_wrong_weight_is_refused_by_its_field_rule_and_value(stage, value, rule):
    field = f"{stage}.negative_weight"
    with pytest.raises(InputError) as refused:
        run_config("small").override({field: value})
    assert (refused.value.field, refused.value.rule) == (field, rule)
    assert repr(value) in str(refused.value)
