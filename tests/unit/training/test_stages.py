"""What the four training stages promise, each in this process."""

import numpy as np
import pytest
import torch

from cacs_ray.models.ranker import Ranker
from cacs_ray.models.saved import load_ranker, load_selector, save_ranker
from cacs_ray.training.ranker import (
    RankerStage,
    ServingRankerConfig,
    log_vectors,
    warm_start,
)
from cacs_ray.training.reporter import PlainReporter
from cacs_ray.training.soft_labels import open_soft_labels, write_soft_labels
from cacs_ray.training.stage import StageInput, _Follower, train_here
from cacs_ray.training.student import (
    SoftLabelFiles,
    StudentConfig,
    StudentStage,
    fit_student,
    student_rows,
    train_student,
)
from cacs_ray.training.teacher import TeacherConfig, TeacherStage
from tests import synthetic_log
from tests.synthetic_log import (
    SPEC,
    loop_config,
    make_log,
    open_synthetic,
    ranker_config,
    selector_config,
    true_best,
)

PLAIN = PlainReporter()
DISTILLATIONS = ("none", "pointwise", "listwise", "rank_labels", "clid")


def student_config(distillation: str, **changes: object) -> StudentConfig:
    fields = {
        "model": selector_config("frequency"),
        "loop": loop_config(num_epochs=15, learning_rate=0.03),
        "distillation": distillation,
        "distillation_weight": 1.0,
        "click_weight": 1.0,
        "listwise_click_weight": 0.0,
        "temperature": 1.0,
    }
    return StudentConfig.model_validate(fields | changes)


@pytest.fixture
def inputs(tmp_path) -> StageInput:
    counts = synthetic_log.counts(make_log())
    return StageInput(str(tmp_path), SPEC, counts, open_synthetic)


@pytest.fixture
def true_soft_labels(tmp_path) -> SoftLabelFiles:
    """A teacher that knows the truth: 3 for the best creative, 0 for the others."""
    files = SoftLabelFiles(tmp_path / "train.npy", tmp_path / "validation.npy")
    for file, window in ((files.train, "train"), (files.validation, "validation")):
        log = open_synthetic("x", window)
        labels = np.zeros((len(log), 5), np.float32)
        labels[np.arange(len(log)), true_best(log)] = 3.0
        np.save(file, labels)
    return files


def choice(selector, log) -> np.ndarray:
    batch = log.batch(np.arange(len(log)))
    with torch.no_grad():
        scores = selector.score(
            selector.user_vectors(batch.context),
            selector.creative_vectors(batch.creatives),
            batch.creative_index,
        )
    return scores.masked_fill(~batch.creative_mask, -1e9).argmax(1).numpy()


@pytest.mark.parametrize("distillation", DISTILLATIONS[1:])
def test_distillation_teaches_the_teachers_order(
    inputs, true_soft_labels, distillation
):
    # Clicks have no say: all that is known about order comes from the teacher.
    config = student_config(distillation, click_weight=0.0)
    rows = student_rows(inputs, true_soft_labels, config)
    selector, result = fit_student(inputs, rows, config, PLAIN)
    validation = open_synthetic("x", "validation")
    right = (choice(selector, validation) == true_best(validation)).mean()
    assert right > 0.9  # a coin of four sides would be right in 0.25
    assert result.metrics["validation/teacher_agreement"] == pytest.approx(right)


def test_a_student_of_clicks_alone_needs_no_soft_labels(inputs, tmp_path):
    stage = StudentStage(inputs, student_config("none"), None)
    train_here(stage, PLAIN, tmp_path)
    validation = open_synthetic("x", "validation")
    chosen = choice(load_selector(tmp_path, SPEC), validation)
    assert (chosen == true_best(validation)).mean() > 0.4


def test_clicks_inside_lists_teach_the_order_without_the_level(inputs):
    # The level has no say at all: all weight lies on the choice inside the list.
    config = student_config("none", click_weight=0.0, listwise_click_weight=1.0)
    rows = student_rows(inputs, None, config)
    selector, _ = fit_student(inputs, rows, config, PLAIN)
    validation = open_synthetic("x", "validation")
    assert (choice(selector, validation) == true_best(validation)).mean() > 0.6


def test_a_teacher_may_learn_from_lists_too(inputs, tmp_path):
    config = TeacherConfig(
        model=ranker_config("none"),
        loop=loop_config(num_epochs=15, learning_rate=0.03),
        listwise_click_weight=1.0,
    )
    result = train_here(TeacherStage(inputs, config), PLAIN, tmp_path)
    # A coin of four sides pays log 4 for each click.
    assert result.metrics["validation/listwise_click_loss"] < np.log(4) - 0.1
    labels = write_soft_labels(inputs, tmp_path, "validation", tmp_path / "l.npy")
    best = open_soft_labels(labels)[:, :4].argmax(1)
    assert (best == true_best(open_synthetic("x", "validation"))).mean() > 0.6


def test_distillation_without_soft_labels_is_refused(inputs):
    with pytest.raises(ValueError, match="soft labels"):
        train_student(inputs, student_config("listwise"), None, None)


@pytest.fixture
def teacher_dir(inputs, tmp_path):
    config = TeacherConfig(
        model=ranker_config("frequency"),
        loop=loop_config(),
        listwise_click_weight=0.0,
    )
    train_here(TeacherStage(inputs, config), PLAIN, tmp_path / "teacher")
    return tmp_path / "teacher"


def test_soft_labels_are_the_teachers_logits_of_whole_lists(
    inputs, teacher_dir, tmp_path
):
    file = write_soft_labels(inputs, teacher_dir, "validation", tmp_path / "labels.npy")
    labels = open_soft_labels(file)
    log = open_synthetic("x", "validation")
    batch = log.batch(np.array([17]))
    with torch.no_grad():
        expected = load_ranker(teacher_dir, SPEC)(
            batch.context, batch.creatives, batch.creative_index
        )
    assert labels.shape == (600, 5)
    assert labels[17, :4].tolist() == pytest.approx(expected[0].tolist(), abs=1e-5)
    assert not labels[:, 4].any()
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_a_warm_start_begins_as_the_teacher(inputs, teacher_dir):
    teacher = load_ranker(teacher_dir, SPEC)
    config = ranker_config("frequency", sharing="frozen")
    torch.manual_seed(9)
    ranker = Ranker(SPEC, config, inputs.counts, selector_config()).eval()
    warm_start(ranker, teacher)
    batch = make_log(50).batch(np.arange(50))
    vectors = torch.randn(len(batch.catalogue_rows), 9)
    inputs_of = (batch.context, batch.creatives, batch.creative_index, None)
    assert torch.allclose(ranker(*inputs_of, vectors), teacher(*inputs_of), atol=1e-6)


def test_a_warm_start_takes_every_vocabulary_that_both_have(inputs, teacher_dir):
    teacher = load_ranker(teacher_dir, SPEC)
    config = ranker_config("none", sharing="frozen", keeps_own_fields=False)
    ranker = Ranker(SPEC, config, inputs.counts, selector_config())
    assert len(ranker.tables.weight) < len(teacher.tables.weight)

    warm_start(ranker, teacher)

    for field in ranker.tables.fields:
        ours, theirs = ranker.tables.table(field), teacher.tables.table(field)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("sharing", ["own", "frozen", "fine_tuned"])
@pytest.mark.parametrize("keeps_own_fields", [True, False])
def test_the_serving_ranker_trains_with_each_way_of_sharing(
    inputs, teacher_dir, tmp_path, sharing, keeps_own_fields
):
    student_dir = tmp_path / "student"
    student = student_config("none", loop=loop_config(num_epochs=1))
    train_here(StudentStage(inputs, student, None), PLAIN, student_dir)
    config = ServingRankerConfig(
        model=ranker_config(
            sharing=sharing, keeps_own_fields=keeps_own_fields, blank_share=0.1
        ),
        loop=loop_config(num_epochs=1),
        is_warm_started=True,
    )
    stage = RankerStage(inputs, config, student_dir, teacher_dir)

    result = train_here(stage, PLAIN, tmp_path / "ranker")

    log = open_synthetic("x", "validation")
    batch = log.batch(np.arange(100), wanted="shown")
    vectors = log_vectors(load_selector(student_dir, SPEC), log)
    logits = load_ranker(tmp_path / "ranker", SPEC)(
        batch.context,
        batch.creatives,
        batch.creative_index,
        None,
        vectors[batch.catalogue_rows],
    )
    assert logits.isfinite().all()
    assert result.metrics["validation/click_loss"] < np.log(2)


def test_another_configuration_is_another_run(inputs):
    config = TeacherConfig(
        model=ranker_config(), loop=loop_config(), listwise_click_weight=0.0
    )
    other = config.override({"loop.seed": 1})
    prints = {TeacherStage(inputs, c).fingerprint for c in (config, config, other)}
    assert len(prints) == 2


def test_two_runs_of_a_stage_leave_the_same_bytes(inputs, tmp_path):
    config = TeacherConfig(
        model=ranker_config("learnt"), loop=loop_config(), listwise_click_weight=1.0
    )
    for name in ("one", "two"):
        train_here(TeacherStage(inputs, config), PLAIN, tmp_path / name)
    files = [tmp_path / name / "model.safetensors" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_metrics_of_a_growing_file_arrive_once(tmp_path):
    file, seen = tmp_path / "metrics.jsonl", []
    follower = _Follower(file, lambda step, metrics: seen.append((step, metrics)))
    follower.forward_new_lines()
    file.write_text('{"step": 1, "metrics": {"a": 1.0}}\n{"step": 2, "met')
    follower.forward_new_lines()
    assert seen == [(1, {"a": 1.0})]
    with file.open("a") as more:
        more.write('rics": {"a": 2.0}}\n{"step": 1, "metrics": {"a": 1.0}}\n')
    follower.forward_new_lines()
    assert seen == [(1, {"a": 1.0}), (2, {"a": 2.0})]


def test_a_saved_teacher_says_what_it_is(inputs, teacher_dir, tmp_path):
    teacher = load_ranker(teacher_dir, SPEC)
    save_ranker(tmp_path, teacher, SPEC, shared=None)
    assert (tmp_path / "config.json").read_bytes() == (
        teacher_dir / "config.json"
    ).read_bytes()
