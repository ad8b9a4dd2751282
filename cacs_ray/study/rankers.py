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
from cacs_ray.study.scoring import score_lists
from cacs_ray.study.window import JudgedWindow
from cacs_ray.training.loop import fit
from cacs_ray.training.ranker import RankerStage, ServingRankerConfig
from cacs_ray.training.reporter import PlainReporter
from cacs_ray.training.stage import StageInput
from cacs_ray.training.steps import RankerStep


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


def run_ranker(name: str, variant: Variant, shared: RankerInputs) -> Figures:
    """Train and judge a ranker, unless its figures are there already.

    Returns:
        `model_figures` of the click logits of the shown creatives, and, as if the
        ranker itself chose among every creative, `policy_figures`.
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
    stage = RankerStage(shared.inputs, config, shared.student_dir, shared.teacher_dir)
    opened = stage.open()
    assert isinstance(opened.step, RankerStep)
    result = fit(
        opened.step, opened.train, opened.validation, stage.loop, PlainReporter()
    )
    log = open_encoded(shared.inputs.encoded_dir, "test")
    opened.step.eval()
    scores, logits = score_lists(log, partial(_scores, opened.step))
    window = JudgedWindow.load(shared.window).with_scores(scores)
    # Whether it agrees with the teacher is asked of selectors.
    log_alone = replace(window.scored, teacher_scores=None)
    return {
        **policy_figures(window, "cacs"),
        **model_figures(log_alone, logits),
        "rows_per_second": result.rows_per_second,
    }


def _scores(step: RankerStep, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return logits without position, and the position's."""
    ranker, vectors = step.ranker, None
    if step.catalogue_vectors is not None:
        vectors = gather_rows(step.catalogue_vectors, batch.catalogue_rows)
    scores = ranker.combine(
        ranker.encode_context(batch.context),
        ranker.encode_creatives(batch.creatives, vectors),
        batch.creative_index,
    )
    return scores, ranker.position(batch.slot)
