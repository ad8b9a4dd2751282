"""One serving ranker of a study: trained on its unit's selector, and judged."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cacs_ray.features.batch import Batch
from cacs_ray.features.store import open_encoded
from cacs_ray.models.embeddings import gather_rows
from cacs_ray.study.figures import Figures, model_figures, policy_figures
from cacs_ray.study.kept import kept
from cacs_ray.study.plan import Variant
from cacs_ray.study.scoring import ranker_scores, score_lists, selector_scores
from cacs_ray.study.window import JudgedWindow
from cacs_ray.training.joint import JointStep, stage_of
from cacs_ray.training.loop import fit
from cacs_ray.training.ranker import RankerStage, ServingRankerConfig
from cacs_ray.training.reporter import PlainReporter
from cacs_ray.training.stage import Stage, StageInput
from cacs_ray.training.steps import RankerStep, Step
from cacs_ray.training.student import SoftLabelFiles, StudentConfig


@dataclass(frozen=True, slots=True)
class RankerInputs:
    """What the rankers of a unit are trained on and judged by."""

    inputs: StageInput
    config: ServingRankerConfig
    """Of the recipe, with one thread."""
    student_dir: Path
    teacher_dir: Path
    window: Path
    """The saved `JudgedWindow`."""
    results: Path
    """Directory of the figures, one file a ranker."""
    student: StudentConfig
    """The selector's losses, for `joint`."""
    soft_labels: SoftLabelFiles


def run_ranker(name: str, variant: Variant, shared: RankerInputs) -> Figures:
    """Train and judge a ranker, unless its figures are there already.

    Returns:
        `model_figures` of the click logits of the shown creatives, and, as if the
        ranker itself chose among every creative, `policy_figures`; for `joint` also
        `policy_figures` of the selector that was trained on, under `selector/`.
    """
    figures: Figures = kept(
        shared.results / f"{name}.json",
        variant.made_from,
        lambda: _trained(variant, shared),
    )
    return figures


def _trained(variant: Variant, shared: RankerInputs) -> Figures:
    torch.set_num_threads(1)
    config = shared.config.override(dict(variant.changes))
    stage = _stage(config, shared)
    opened = stage.open()
    step = opened.step
    result = fit(
        opened.step, opened.train, opened.validation, stage.loop, PlainReporter()
    )
    log = open_encoded(shared.inputs.encoded_dir, "test")
    step.eval()
    scores, logits = score_lists(log, partial(_scores, step))
    judged = JudgedWindow.load(shared.window)
    window = judged.with_scores(scores)
    own: Figures = {}
    if isinstance(step, JointStep):
        selector = step.student.selector
        chosen, _ = score_lists(log, partial(selector_scores, selector))
        figures = policy_figures(judged.with_scores(chosen), "cacs")
        own = {f"selector/{name}": value for name, value in figures.items()}
    # Whether it agrees with the teacher is asked of selectors.
    log_alone = replace(window.scored, teacher_scores=None)
    return {
        **policy_figures(window, "cacs"),
        **model_figures(log_alone, logits),
        **own,
        "rows_per_second": result.rows_per_second,
    }


def _stage(config: ServingRankerConfig, shared: RankerInputs) -> Stage:
    stage = RankerStage(shared.inputs, config, shared.student_dir, shared.teacher_dir)
    return stage_of(stage, shared.student, shared.soft_labels)


def _scores(step: Step, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return logits without position, and the position's."""
    vectors = None
    if isinstance(step, JointStep):
        vectors = step.student.selector.creative_vectors(batch.creatives)
        step = step.ranker
    assert isinstance(step, RankerStep)
    if step.catalogue_vectors is not None:
        vectors = gather_rows(step.catalogue_vectors, batch.catalogue_rows)
    return ranker_scores(step.ranker, batch, vectors)
