"""The student, killed five times and resumed each time.

python -m cacs_ray.benchmarks.ours_deaths ENCODED OUT NUM_WORKERS LIVES

LIVES are steps between deaths, parted by commas; "-" lets it live. With 0 workers the
process itself dies by SIGKILL and has to be started again; with workers one of them
dies and Ray Train starts a new group.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cacs_ray.benchmarks.child import tell
from cacs_ray.benchmarks.training import Contestant
from cacs_ray.cluster import start_ray
from cacs_ray.data.files import sha256_file
from cacs_ray.features.store import open_fitted
from cacs_ray.training.optimizer import LoopConfig
from cacs_ray.training.stage import Launch, OpenStage, Stage, StageInput, run_stage
from cacs_ray.training.student import StudentStage

_CHECKPOINT_EVERY = 7
"""Fewer than the shortest life, so that every life gets on."""


@dataclass(frozen=True, slots=True)
class DeadlyStage:
    """A stage whose process dies after so many steps, a given number of times."""

    stage: Stage
    lives: tuple[int, ...]
    deaths: Path
    """Gets a file for each death."""

    @property
    def inputs(self) -> StageInput:
        """What it reads."""
        return self.stage.inputs

    @property
    def loop(self) -> LoopConfig:
        """How long and how fast."""
        return self.stage.loop

    @property
    def fingerprint(self) -> str:
        """That of the stage: death decides nothing."""
        return self.stage.fingerprint

    def open(self) -> OpenStage:
        """Open the stage with death in it."""
        opened = self.stage.open()
        number = len(list(self.deaths.glob("death-*")))
        if number >= len(self.lives) or not _is_victim(number):
            return opened
        left = self.lives[number]

        def count(*_: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                (self.deaths / f"death-{number}").touch()
                os.kill(os.getpid(), signal.SIGKILL)

        opened.step.register_forward_pre_hook(count)
        return opened

    def save(self, step: nn.Module, directory: Path) -> None:
        """Write the trained model."""
        self.stage.save(step, directory)


def _is_victim(number: int) -> bool:
    """Take turns among the workers."""
    group = torch.distributed
    if not group.is_initialized():
        return True
    return group.get_rank() == number % group.get_world_size()


def train(encoded: str, out: Path, num_workers: int, lives: Sequence[int]) -> None:
    """Train two short epochs, dying as told, and say digest and metrics."""
    fitted = open_fitted(encoded)
    counts = {name: v.counts for name, v in fitted.vocabularies.items()}
    side = Contestant(StageInput(encoded, fitted.spec, counts), "student")
    changes = {
        "num_epochs": 2,
        "batch_size": 8192,
        "num_threads": 1,
        "checkpoint_every_steps": _CHECKPOINT_EVERY,
        "patience": 0,
    }
    loop = side.loop.override(changes)
    config = side.stage.config.model_copy(update={"loop": loop})
    stage = StudentStage(side.inputs, config, None)  # type: ignore[arg-type]
    out.mkdir(parents=True, exist_ok=True)
    deadly = DeadlyStage(stage, tuple(lives), out)
    launch = Launch(
        out / "model",
        num_workers,
        checkpoint_dir=out / "checkpoints",
        max_failures=len(lives),
    )
    result = run_stage(deadly, launch)
    tell(
        {
            "deaths": len(list(out.glob("death-*"))),
            "steps": result.num_steps,
            "digest": sha256_file(out / "model" / "model.safetensors"),
            "metrics": dict(result.metrics),
        }
    )


def main() -> None:
    """Read the arguments; start Ray only where there are workers."""
    encoded, out, num_workers, lives = sys.argv[1:5]
    steps = [] if lives == "-" else [int(life) for life in lives.split(",")]
    if int(num_workers) == 0:
        train(encoded, Path(out), 0, steps)
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    with start_ray(int(num_workers) + 1):
        train(encoded, Path(out), int(num_workers), steps)


if __name__ == "__main__":
    main()
