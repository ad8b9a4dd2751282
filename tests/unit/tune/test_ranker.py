"""A search of the ranker: each way of sharing is trained and judged as it is."""

import numpy as np
import pytest

from cacs_ray.models.saved import load_selector
from cacs_ray.training.joint import JointStage
from cacs_ray.training.ranker import RankerStage, ServingRankerConfig
from cacs_ray.training.reporter import PlainReporter
from cacs_ray.training.stage import StageInput, train_here
from cacs_ray.training.student import SoftLabelFiles, StudentStage
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
from tune import student
from tune.judge import judge
from tune.ranker import RankerSearch
from tune.search import METRIC
from tune.student import StudentSearch

PLAIN = PlainReporter()
STUDENT = clicks_student(num_epochs=1)


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """Train what all trials share: a teacher and a student."""
    root = tmp_path_factory.mktemp("work")
    inputs = StageInput(
        str(root), SPEC, synthetic_log.counts(make_log()), open_synthetic
    )
    teacher = TeacherConfig(
        model=ranker_config(),
        loop=loop_config(num_epochs=1),
        listwise_click_weight=0.0,
    )
    train_here(TeacherStage(inputs, teacher), PLAIN, root / "teacher")
    train_here(StudentStage(inputs, STUDENT, None), PLAIN, root / "student")
    config = ServingRankerConfig(
        model=ranker_config(sharing="frozen", keeps_own_fields=False, blank_share=0.1),
        loop=loop_config(num_epochs=1),
        is_warm_started=True,
    )
    base = RankerStage(inputs, config, root / "student", root / "teacher")
    none = SoftLabelFiles(root / "train.npy", root / "validation.npy")
    return RankerSearch(base, STUDENT, none)


@pytest.mark.parametrize("sharing", ["frozen", "fine_tuned", "joint"])
def test_the_judged_loss_is_the_one_that_trials_report(search, sharing, tmp_path):
    stage = search.stage({"model.sharing": sharing, "model.dim": 4})
    assert isinstance(stage, JointStage) == (sharing == "joint")

    result = train_here(stage, PLAIN, tmp_path / "trial")

    log = open_synthetic("x", "validation")
    judged = search.judge(tmp_path / "trial", log)
    weighted = np.average(judged.click_loss, weights=log.weight)
    assert weighted == pytest.approx(result.metrics[METRIC], rel=1e-4)
    assert 0 < judged.is_shown.mean() < 1


def test_a_selector_is_judged_by_itself(search, tmp_path):
    inputs = search.base.inputs
    selectors = StudentSearch(StudentStage(inputs, STUDENT, None))
    stage = selectors.stage({"model.dim": 4, "loop.learning_rate": 0.01})
    assert (stage.config.model.dim, stage.loop.learning_rate) == (4, 0.01)
    train_here(stage, PLAIN, tmp_path / "trial")
    log = open_synthetic("x", "validation")
    expected = judge(load_selector(tmp_path / "trial", SPEC), log)
    found = selectors.judge(tmp_path / "trial", log)
    assert np.array_equal(found.click_loss, expected.click_loss)
    assert selectors.space is student.SPACE
