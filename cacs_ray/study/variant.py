"""One selector of a study: trained on the shared inputs of its unit, and judged.

Teacher and soft labels are those of the unit's cycle, so that variants differ in
nothing but what they change.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from cacs_ray.features.spec import FeatureSpec
from cacs_ray.features.store import open_encoded
from cacs_ray.study.figures import Figures, model_figures, policy_figures
from cacs_ray.study.kept import kept
from cacs_ray.study.plan import Variant
from cacs_ray.study.scoring import score_lists, selector_scores
from cacs_ray.study.window import JudgedWindow
from cacs_ray.training.reporter import PlainReporter
from cacs_ray.training.stage import StageInput
from cacs_ray.training.student import (
    SoftLabelFiles,
    StudentConfig,
    fit_student,
    student_rows,
)


@dataclass(frozen=True, slots=True)
class SharedInputs:
    """What the variants of a unit are trained on and judged by."""

    inputs: StageInput
    soft_labels: SoftLabelFiles
    config: StudentConfig
    """Of the full method, with one thread."""
    window: Path
    """The saved `JudgedWindow`."""
    results: Path
    """Directory of the figures, one file a variant."""


def run_variant(name: str, variant: Variant, shared: SharedInputs) -> Figures:
    """Train and judge a variant, unless its figures are there already.

    Returns:
        `policy_figures` of its choices, `model_figures`, and `rows_per_second` and
        `num_steps` of its training.
    """
    figures: Figures = kept(
        shared.results / f"{name}.json",
        variant.made_from,
        lambda: _trained(variant, shared),
    )
    return figures


def _trained(variant: Variant, shared: SharedInputs) -> Figures:
    torch.set_num_threads(1)
    config = shared.config.override(dict(variant.changes))
    inputs = replace(shared.inputs, spec=_without(shared.inputs.spec, variant.without))
    taught = None if config.distillation == "none" else shared.soft_labels
    rows = student_rows(inputs, taught, config)
    selector, result = fit_student(inputs, rows, config, PlainReporter())
    log = open_encoded(inputs.encoded_dir, "test")
    selector.eval()
    scores, logits = score_lists(log, partial(selector_scores, selector))
    window = JudgedWindow.load(shared.window).with_scores(scores)
    return {
        **policy_figures(window, "cacs"),
        **model_figures(window.scored, logits),
        "rows_per_second": result.rows_per_second,
        "num_steps": float(result.num_steps),
    }


def can_choose(spec: FeatureSpec, variant: Variant) -> bool:
    """Tell whether anything is left that tells creatives apart."""
    return bool(_without(spec, variant.without).of("creative", "ad"))


def _without(spec: FeatureSpec, kinds: tuple[str, ...]) -> FeatureSpec:
    """Return the spec of a selector that does not see some kinds of features.

    Identities are left out on the side that is chosen; who asks stays known.
    """
    kept = tuple(
        field
        for field in spec.fields
        if field.kind not in kinds or field.of in ("user", "request")
    )
    return spec.model_copy(update={"fields": kept})
