"""Stage 3: the student, the selector, learns from clicks and from the teacher."""

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from pydantic import Field
from torch import nn

from cacs_ray.config import Config
from cacs_ray.models.saved import save_selector
from cacs_ray.models.selector import Selector, SelectorConfig
from cacs_ray.training.checkpoint import CheckpointStore
from cacs_ray.training.coldness import cold_shares
from cacs_ray.training.later_gate import teach_gate
from cacs_ray.training.loop import FitResult, fit
from cacs_ray.training.optimizer import LoopConfig
from cacs_ray.training.randomness import own_randomness
from cacs_ray.training.reporter import Reporter
from cacs_ray.training.rows import Rows
from cacs_ray.training.soft_labels import open_soft_labels
from cacs_ray.training.stage import (
    Launch,
    OpenStage,
    StageInput,
    TrainResult,
    click_rate_logit,
    run_stage,
    seeded,
    stage_fingerprint,
)
from cacs_ray.training.steps import Distillation, StudentStep
from cacs_ray.training.validation import judge
from cacs_ray.training.windows import open_windows, with_lists

log = logging.getLogger(__name__)


class StudentConfig(Config):
    """The selector and its training."""

    model: SelectorConfig
    loop: LoopConfig
    distillation: Distillation
    """How the teacher's logits are taught; none = clicks only."""
    distillation_weight: float = Field(ge=0)
    """lambda: price of one nat of distillation."""
    click_weight: float = Field(ge=0)
    """Price of one nat of the click loss; 0 learns from the teacher alone."""
    listwise_click_weight: float | None = Field(ge=0)
    """Price of one nat of the choice among the creatives of a clicked list; None = as
    `windows.listwise_weight` finds."""
    temperature: float = Field(gt=0)
    """tau of the soft labels, for `listwise`."""
    importance_clip: float | None = Field(default=None, ge=1)
    """Bound of the inverse propensity that weights the click loss; None = unweighted.
    Worth trying where the log explored little and its propensities are known."""
    negative_weight: float = Field(default=1.0, gt=0, le=1)
    """What an impression without a click counts in the click loss, in training alone;
    the loss moves its logits by the log, so that the level stays that of all rows."""


@dataclass(frozen=True, slots=True)
class SoftLabelFiles:
    """What stage 2 left."""

    train: Path
    validation: Path


@dataclass(frozen=True, slots=True)
class StudentStage:
    """Trains the selector on the training window, judged on validation."""

    inputs: StageInput
    config: StudentConfig
    soft_labels: SoftLabelFiles | None
    """None only without distillation."""

    @property
    def loop(self) -> LoopConfig:
        """How long and how fast."""
        return self.config.loop

    @property
    def fingerprint(self) -> str:
        """Digest of everything that decides the outcome."""
        files = [] if self.soft_labels is None else [self.soft_labels.validation]
        return "student-" + stage_fingerprint(self.inputs, self.config, *files)

    def open(self) -> OpenStage:
        """Build the selector, starting at the observed CTR."""
        rows = student_rows(self.inputs, self.soft_labels, self.config)
        step = build_student(self.inputs, rows, self.config)
        return OpenStage(step, *rows, partial(_teach_gate, step, rows[1], self.config))

    def save(self, step: nn.Module, directory: Path) -> None:
        """Write the selector."""
        selector = step.get_submodule("selector")
        assert isinstance(selector, Selector)
        save_selector(directory, selector, self.inputs.spec)


def student_rows(
    inputs: StageInput, soft_labels: SoftLabelFiles | None, config: StudentConfig
) -> tuple[Rows, Rows | None]:
    """Open training and validation rows with the lists that the losses read."""
    rows = open_windows(inputs)
    if soft_labels is None:
        return with_lists(rows, config.listwise_click_weight)[1]
    train, validation = rows
    taught, judged = (
        open_soft_labels(soft_labels.train),
        open_soft_labels(soft_labels.validation),
    )
    return (
        replace(train, wanted="all", teacher_logits=taught),
        validation and replace(validation, wanted="all", teacher_logits=judged),
    )


def build_student(
    inputs: StageInput, rows: tuple[Rows, Rows | None], config: StudentConfig
) -> StudentStep:
    """Build an untrained selector with its loss."""
    train, validation = rows
    weight, _ = with_lists(rows, config.listwise_click_weight)
    with seeded(config.loop.seed):
        selector = Selector(inputs.spec, config.model, inputs.counts)
    selector.gate.expect_cold(cold_shares(inputs, validation))
    with torch.no_grad():
        selector.base_logit.fill_(click_rate_logit(train.log))
    if inputs.earlier:
        inputs.earlier.teach(selector, "selector")
    return StudentStep(
        selector,
        config.distillation,
        distillation_weight=config.distillation_weight,
        click_weight=config.click_weight,
        listwise_click_weight=weight,
        temperature=config.temperature,
        importance_clip=config.importance_clip,
        negative_weight=config.negative_weight,
    )


def fit_student(
    inputs: StageInput,
    rows: tuple[Rows, Rows | None],
    config: StudentConfig,
    reporter: Reporter,
    store: CheckpointStore | None = None,
) -> tuple[Selector, FitResult]:
    """Train a selector in this process, for instance as a trial of a sweep.

    Args:
        inputs: gives spec and counts.
        rows: training and validation rows, from `student_rows`.
        config: sizes and training.
        reporter: told about metrics after each epoch.
        store: keeps checkpoints; None keeps none.

    Returns:
        The selector with its best weights, and the metrics of that epoch.
    """
    step = build_student(inputs, rows, config)
    result = fit(step, *rows, config.loop, reporter, store)
    changed = _teach_gate(step, rows[1], config)
    return step.selector, replace(result, metrics={**result.metrics, **changed})


def _teach_gate(
    step: StudentStep, later: Rows | None, config: StudentConfig
) -> dict[str, float]:
    """Teach a gate whose signal is later, and judge the selector again with it.

    Returns:
        Validation metrics of the selector that is kept; none where no gate was
        taught. Some ten numbers of the gate have seen these very rows.
    """
    gate = config.model.gate
    if gate.kind != "learnt" or gate.signal != "later":
        return {}
    if later is None or not len(later):
        log.warning("no rows later than training: the gate stays the frequency rule")
        return {}
    with own_randomness(config.loop):
        loss = teach_gate(
            step, later, batch_size=config.loop.batch_size, seed=config.loop.seed
        )
    log.info("gate taught by %d later rows, loss %.4f", len(later), loss)
    judged = judge(step, later, batch_size=config.loop.batch_size)
    return {f"validation/{name}": value for name, value in judged.items()}


def train_student(
    inputs: StageInput,
    config: StudentConfig,
    soft_labels: SoftLabelFiles | None,
    launch: Launch,
) -> TrainResult:
    """Train the selector and write it to `launch.out_dir`.

    Args:
        inputs: the encoded log, its spec and counts.
        config: sizes, losses and training.
        soft_labels: what `write_soft_labels` left; None only without distillation.
        launch: where to run, and whom to tell.

    Raises:
        ValueError: distillation without soft labels.
    """
    if config.distillation != "none" and soft_labels is None:
        raise ValueError(f"distillation {config.distillation!r} needs soft labels")
    used = None if config.distillation == "none" else soft_labels
    return run_stage(StudentStage(inputs, config, used), launch)
