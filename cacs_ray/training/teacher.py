"""Stage 1: the teacher, a ranker with all features, learns from clicks."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import nn

from cacs_ray.config import Config
from cacs_ray.models.ranker import Ranker, RankerConfig
from cacs_ray.models.saved import save_ranker
from cacs_ray.training.coldness import cold_shares
from cacs_ray.training.optimizer import LoopConfig
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
from cacs_ray.training.steps import RankerStep
from cacs_ray.training.windows import open_windows, with_lists


class TeacherConfig(Config):
    """The teacher and its training."""

    model: RankerConfig
    """`sharing` must be `own`: there is no selector yet."""
    loop: LoopConfig
    listwise_click_weight: float | None = Field(ge=0)
    """Price of one nat of the choice among the creatives of a clicked list; None = as
    `windows.listwise_weight` finds."""
    importance_clip: float | None = Field(default=None, ge=1)
    """As in `StudentConfig`."""


@dataclass(frozen=True, slots=True)
class TeacherStage:
    """Trains the teacher on the training window, judged on validation."""

    inputs: StageInput
    config: TeacherConfig

    @property
    def loop(self) -> LoopConfig:
        """How long and how fast."""
        return self.config.loop

    @property
    def fingerprint(self) -> str:
        """Digest of everything that decides the outcome."""
        return "teacher-" + stage_fingerprint(self.inputs, self.config)

    def open(self) -> OpenStage:
        """Build the ranker, starting at the observed CTR."""
        weight, rows = with_lists(
            open_windows(self.inputs), self.config.listwise_click_weight
        )
        with seeded(self.loop.seed):
            ranker = Ranker(self.inputs.spec, self.config.model, self.inputs.counts)
        ranker.expect_cold(cold_shares(self.inputs, rows[1]))
        with torch.no_grad():
            ranker.base_logit.fill_(click_rate_logit(rows[0].log))
        if self.inputs.earlier:
            self.inputs.earlier.teach(ranker, "teacher")
        clip = self.config.importance_clip
        step = RankerStep(ranker, listwise_click_weight=weight, importance_clip=clip)
        return OpenStage(step, *rows)

    def save(self, step: nn.Module, directory: Path) -> None:
        """Write the ranker."""
        ranker = step.get_submodule("ranker")
        assert isinstance(ranker, Ranker)
        save_ranker(directory, ranker, self.inputs.spec, shared=None)


def train_teacher(
    inputs: StageInput, config: TeacherConfig, launch: Launch
) -> TrainResult:
    """Train the teacher and write it to `launch.out_dir`.

    Args:
        inputs: the encoded log, its spec and counts.
        config: sizes and training.
        launch: where to run, and whom to tell.
    """
    return run_stage(TeacherStage(inputs, config), launch)
