"""Stage 4: the serving ranker, fed with the selector's creative vectors."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from cacs_ray.config import Config
from cacs_ray.features.batch import EncodedLog
from cacs_ray.models.ranker import Ranker, RankerConfig
from cacs_ray.models.saved import WEIGHTS, load_ranker, load_selector, save_ranker
from cacs_ray.models.selector import Selector, catalogue_vectors
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
from cacs_ray.training.warm import take_weights
from cacs_ray.training.windows import open_windows


class ServingRankerConfig(Config):
    """The serving ranker and its training."""

    model: RankerConfig
    loop: LoopConfig
    is_warm_started: bool
    """Start from the teacher's weights wherever their shapes fit."""
    negative_weight: float = Field(default=1.0, gt=0, le=1)
    """As in `StudentConfig`."""


@dataclass(frozen=True, slots=True)
class RankerStage:
    """Trains the serving ranker on the training window, judged on validation."""

    inputs: StageInput
    config: ServingRankerConfig
    student_dir: Path
    teacher_dir: Path

    @property
    def loop(self) -> LoopConfig:
        """How long and how fast."""
        return self.config.loop

    @property
    def fingerprint(self) -> str:
        """Digest of everything that decides the outcome."""
        weights = [self.student_dir / WEIGHTS, self.teacher_dir / WEIGHTS]
        return "ranker-" + stage_fingerprint(self.inputs, self.config, *weights)

    def open(self) -> OpenStage:
        """Build the ranker around the student's creative vectors."""
        train, validation = open_windows(self.inputs)
        selector = load_selector(self.student_dir, self.inputs.spec, self.inputs.counts)
        ranker = self.build(selector, train.log)
        ranker.expect_cold(cold_shares(self.inputs, validation))
        vectors = None
        if self.config.model.sharing == "frozen":
            vectors = log_vectors(selector, train.log)
        return OpenStage(self.step(ranker, vectors), train, validation)

    def step(self, ranker: Ranker, catalogue_vectors: Tensor | None) -> RankerStep:
        """Return a ranker with its loss.

        Args:
            ranker: what is trained.
            catalogue_vectors: the selector's frozen ones, where it reads them.
        """
        return RankerStep(
            ranker,
            catalogue_vectors=catalogue_vectors,
            negative_weight=self.config.negative_weight,
        )

    def build(self, selector: Selector, train: EncodedLog) -> Ranker:
        """Build the ranker where its training starts."""
        spec, counts = self.inputs.spec, self.inputs.counts
        with seeded(self.loop.seed):
            ranker = Ranker(spec, self.config.model, counts, selector.config)
        with torch.no_grad():
            ranker.base_logit.fill_(click_rate_logit(train))
        if self.inputs.earlier:
            self.inputs.earlier.teach(ranker, "ranker")
        elif self.config.is_warm_started:
            warm_start(ranker, load_ranker(self.teacher_dir, spec, counts))
        if ranker.tower is not None:
            ranker.tower.load_state_dict(selector.state_dict())
        return ranker

    def save(self, step: nn.Module, directory: Path) -> None:
        """Write the ranker."""
        ranker = step.get_submodule("ranker")
        assert isinstance(ranker, Ranker)
        shared = load_selector(self.student_dir, self.inputs.spec).config
        save_ranker(directory, ranker, self.inputs.spec, shared)


def train_ranker(
    inputs: StageInput,
    config: ServingRankerConfig,
    launch: Launch,
    *,
    student_dir: Path,
    teacher_dir: Path,
) -> TrainResult:
    """Train the serving ranker and write it to `launch.out_dir`.

    Args:
        inputs: the encoded log, its spec and counts.
        config: sizes, sharing and training.
        launch: where to run, and whom to tell.
        student_dir: what `train_student` left.
        teacher_dir: what `train_teacher` left; read only for a warm start.
    """
    return run_stage(RankerStage(inputs, config, student_dir, teacher_dir), launch)


def log_vectors(selector: Selector, log: EncodedLog) -> Tensor:
    """Return V of every creative of a log: float32 [creatives + 1, D], row 0 zero."""
    num_rows = len(log.creative_ad_row)
    # A copy made outside inference mode, so that training may keep it.
    return catalogue_vectors(selector, log.creative_features, num_rows).clone()


@torch.no_grad()
def warm_start(ranker: Ranker, teacher: Ranker) -> None:
    """Copy the teacher's weights wherever name and shape fit.

    Where the creative's own fields are read beside the shared vectors, the layer
    that reads both takes the teacher's columns and starts with zeros for the
    vectors: the ranker then begins exactly as the teacher. With embeddings of another
    width little fits, and the rest starts anew.
    """
    take_weights(ranker, teacher)
    is_as_wide = ranker.config.dim == teacher.config.dim
    if not (ranker.creative_encoder.fields and is_as_wide):
        return
    theirs = dict(teacher.creative_tower.named_parameters())
    for name, ours in ranker.creative_tower.named_parameters():
        if ours.shape != theirs[name].shape:
            ours.zero_()[:, : theirs[name].shape[1]] = theirs[name]
