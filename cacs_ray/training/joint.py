"""Selector and serving ranker trained together: one network, one loss.

The ranker reads the selector's creative vectors while both learn: its click loss goes
on into the creative tower, beside the selector's own losses. What is left is what
`frozen` leaves, a selector and a ranker that reads its vectors, so that serving knows
no difference. Both start where the student stage and the teacher left them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from torch import nn

from cacs_ray.features.batch import Batch
from cacs_ray.models.ranker import Ranker
from cacs_ray.models.saved import WEIGHTS, load_selector, save_ranker, save_selector
from cacs_ray.models.selector import Selector
from cacs_ray.training.coldness import cold_shares
from cacs_ray.training.optimizer import LoopConfig
from cacs_ray.training.ranker import RankerStage
from cacs_ray.training.stage import (
    Launch,
    OpenStage,
    Stage,
    StageInput,
    TrainResult,
    run_stage,
    stage_fingerprint,
)
from cacs_ray.training.steps import Parts, RankerStep, Step, StudentStep
from cacs_ray.training.student import (
    SoftLabelFiles,
    StudentConfig,
    build_student,
    student_rows,
)

Part = TypeVar("Part")

SELECTOR: Final = "selector"
"""Directory of the selector beside the ranker, and what its metrics begin with."""


class JointStep(Step):
    """Sum of the ranker's loss and the selector's, over one creative tower.

    Args:
        student: the selector with its losses.
        ranker: reads the selector's vectors, `joint`.
    """

    def __init__(self, student: StudentStep, ranker: RankerStep) -> None:
        super().__init__()
        self.student, self.ranker = student, ranker

    @property
    def prices(self) -> Mapping[str, float]:
        """Prices of the parts; the selector's begin with its name."""
        return {**self.ranker.prices, **_named(self.student.prices)}

    def parts(self, batch: Batch) -> Parts:
        """Return the parts of both losses."""
        vectors = self.student.selector.creative_vectors(batch.creatives)
        of_selector = _named(self.student.parts(batch, vectors))
        return {**self.ranker.parts(batch, vectors), **of_selector}

    def totals(self, batch: Batch) -> Parts:
        """Return the sum of the weights of each part."""
        return {**self.ranker.totals(batch), **_named(self.student.totals(batch))}


@dataclass(frozen=True, slots=True)
class JointStage:
    """Trains selector and serving ranker on together, judged by the sum of losses."""

    ranker: RankerStage
    """Where the ranker starts; its loop is that of both."""
    student: StudentConfig
    """The selector's losses."""
    soft_labels: SoftLabelFiles | None

    @property
    def inputs(self) -> StageInput:
        """What it reads."""
        return self.ranker.inputs

    @property
    def loop(self) -> LoopConfig:
        """How long and how fast."""
        return self.ranker.loop

    @property
    def fingerprint(self) -> str:
        """Digest of everything that decides the outcome."""
        files = [self.ranker.student_dir / WEIGHTS, self.ranker.teacher_dir / WEIGHTS]
        if self.soft_labels is not None:
            files.append(self.soft_labels.validation)
        student = stage_fingerprint(self.inputs, self.student, *files)
        return "joint-" + stage_fingerprint(self.inputs, self.ranker.config) + student

    def open(self) -> OpenStage:
        """Build both models and their losses."""
        inputs = self.inputs
        train, validation = student_rows(inputs, self.soft_labels, self.student)
        student = build_student(inputs, (train, validation), self.student)
        kept = load_selector(self.ranker.student_dir, inputs.spec, inputs.counts)
        student.selector.load_state_dict(kept.state_dict())
        ranker = self.ranker.build(student.selector, train.log)
        ranker.expect_cold(cold_shares(inputs, validation))
        step = JointStep(student, self.ranker.step(ranker, None))
        return OpenStage(step, train, validation)

    def save(self, step: nn.Module, directory: Path) -> None:
        """Write the ranker, and the selector beside it."""
        selector = step.get_submodule("student.selector")
        ranker = step.get_submodule("ranker.ranker")
        assert isinstance(selector, Selector)
        assert isinstance(ranker, Ranker)
        save_ranker(directory, ranker, self.inputs.spec, selector.config)
        save_selector(directory / SELECTOR, selector, self.inputs.spec)


def stage_of(
    stage: RankerStage, student: StudentConfig, soft_labels: SoftLabelFiles
) -> Stage:
    """Return what trains a ranker: alone, or with the selector where that is shared.

    Args:
        stage: the ranker's.
        student: the selector's losses; read for `joint` sharing alone.
        soft_labels: what `write_soft_labels` left.
    """
    if stage.config.model.sharing != "joint":
        return stage
    is_taught = student.distillation != "none"
    return JointStage(stage, student, soft_labels if is_taught else None)


def train_jointly(
    stage: RankerStage,
    student: StudentConfig,
    soft_labels: SoftLabelFiles,
    launch: Launch,
) -> TrainResult:
    """Train selector and ranker on together and write both to `launch.out_dir`.

    Args:
        stage: the ranker's, whose sharing is `joint`.
        student: the selector's losses; its sizes are those of the student stage.
        soft_labels: what `write_soft_labels` left.
        launch: where to run, and whom to tell.
    """
    return run_stage(stage_of(stage, student, soft_labels), launch)


def _named(parts: Mapping[str, Part]) -> dict[str, Part]:
    return {f"{SELECTOR}_{name}": part for name, part in parts.items()}
