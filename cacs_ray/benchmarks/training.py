"""Rows per second of training, beside plain PyTorch and beside the peers."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch

from cacs_ray.benchmarks.child import NUM_CPUS, run_script
from cacs_ray.benchmarks.environment import peer_python
from cacs_ray.benchmarks.limit import limit
from cacs_ray.benchmarks.market import encoded
from cacs_ray.benchmarks.outcome import (
    Outcome,
    Settings,
    at_least,
    at_most,
    compared,
    interleave,
)
from cacs_ray.benchmarks.peer_rows import export_rows
from cacs_ray.cluster import start_ray
from cacs_ray.features.batch import Batch
from cacs_ray.recipes.config import run_config
from cacs_ray.training.loop import fit
from cacs_ray.training.optimizer import LoopConfig
from cacs_ray.training.reporter import PlainReporter
from cacs_ray.training.rows import Rows
from cacs_ray.training.stage import Launch, StageInput, run_stage
from cacs_ray.training.steps import Step
from cacs_ray.training.student import StudentStage, build_student
from cacs_ray.training.teacher import TeacherStage

Role = Literal["teacher", "student"]

NUM_ROWS: Final = 500_000
"""Impressions of the market `small` that the training reads."""
_RAY_EPOCHS: Final = 3
_PEERS: Final[Mapping[Role, tuple[str, ...]]] = {
    "teacher": ("deepctr-dcnmix", "rechub-dcnv2"),
    "student": ("deepctr-wdl", "rechub-dssm"),
}


@dataclass(frozen=True)
class Contestant:
    """One model of ours on some rows, trained on clicks alone."""

    inputs: StageInput
    role: Role

    @cached_property
    def loop(self) -> LoopConfig:
        """The loop of the recipe, one pass over the rows and no validation."""
        changes = {"num_epochs": 1, "min_steps_per_epoch": 1, "num_threads": NUM_CPUS}
        return run_config("small").teacher.loop.override(changes)

    @property
    def stage(self) -> TeacherStage | StudentStage:
        """The stage as a cycle runs it, without distillation."""
        config = run_config("small")
        if self.role == "teacher":
            own = config.teacher.model_copy(update={"loop": self.loop})
            return TeacherStage(self.inputs, own)
        changes = {"loop": self.loop, "distillation": "none"}
        return StudentStage(
            self.inputs, config.student.model_copy(update=changes), None
        )

    @cached_property
    def _opened(self) -> tuple[Step, Rows]:
        opened = self.stage.open()
        return opened.step, opened.train

    @property
    def step(self) -> Step:
        """The module that is trained."""
        return self._opened[0]

    @property
    def rows(self) -> Rows:
        """The training window."""
        return self._opened[1]

    @property
    def first_rows(self) -> np.ndarray:
        """Rows of one batch, drawn from all."""
        order = np.random.default_rng(0).permutation(len(self.rows))
        return order[: self.loop.batch_size]

    @cached_property
    def batches(self) -> list[Batch]:
        """All rows as tensors, made beforehand."""
        order = np.random.default_rng(0).permutation(len(self.rows))
        parts = np.array_split(order, math.ceil(len(order) / self.loop.batch_size))
        return [self.rows.batch(part, torch.device("cpu")) for part in parts]

    def fitted(self) -> float:
        """Train one pass with our loop in this process; rows per second."""
        loop = self.loop
        return fit(self.step, self.rows, None, loop, PlainReporter()).rows_per_second

    def plain(self) -> float:
        """Train one pass with nothing but PyTorch on preloaded rows; rows/s."""
        order = np.random.default_rng(0).permutation(len(self.rows))
        parts = np.array_split(order, math.ceil(len(order) / self.loop.batch_size))
        cpu = torch.device("cpu")
        return self._plain_pass(self.rows.batch(part, cpu) for part in parts)

    def free_of_data(self) -> float:
        """The same on batches that were made beforehand: no data work at all."""
        return self._plain_pass(self.batches)

    def _plain_pass(self, batches: Iterable[Batch]) -> float:
        """Train on batches with dense Adam over every weight; rows/s."""
        self.step.train()
        rate = self.loop.learning_rate
        optimizer = torch.optim.Adam(self.step.parameters(), rate, fused=True)
        torch.set_num_threads(NUM_CPUS)
        started = time.perf_counter()
        for batch in batches:
            loss = self.step(batch)["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return len(self.rows) / (time.perf_counter() - started)

    def on_ray_train(self, out: Path) -> float:
        """Train three passes on one worker of Ray Train; rows/s inside its loop."""
        stage = self.stage
        longer = self.loop.override({"num_epochs": _RAY_EPOCHS})
        config = stage.config.model_copy(update={"loop": longer})
        longest = replace(stage, config=config)  # type: ignore[arg-type]
        result = run_stage(longest, Launch(out / "trained" / self.role, num_workers=1))
        return result.rows_per_second


def training(settings: Settings) -> list[Outcome]:
    """Compare both models with plain PyTorch, and a pass with distillation."""
    teacher, student = _sides(settings)
    table = [*_beside_plain(teacher, settings), *_beside_plain(student, settings)]
    return [*table, _distillation(student, settings)]


def peers(settings: Settings) -> list[Outcome]:
    """Compare both models with DeepCTR-Torch and torch-rechub; see `_PEERS`."""
    return [row for side in _sides(settings) for row in _beside_peers(side, settings)]


def _sides(settings: Settings) -> tuple[Contestant, Contestant]:
    inputs = encoded(settings.out, "small", NUM_ROWS)
    return Contestant(inputs, "teacher"), Contestant(inputs, "student")


def _beside_plain(side: Contestant, settings: Settings) -> list[Outcome]:
    _ = side.batches  # made before any clock runs
    ours, plain, free = interleave(
        [side.fitted, side.plain, side.free_of_data], settings.repeats
    )
    with start_ray():
        on_ray, beside = interleave(
            [lambda: side.on_ray_train(settings.out), side.plain], 2, warm_ups=0
        )
    goal, what = at_least(0.95), f"{side.role}, {len(side.rows):,} rows"
    return [
        compared(f"{what}: loop in process / plain loop", ours, plain, "rows/s", goal),
        compared(
            f"{what}: loop in process / plain on ready batches", ours, free, "rows/s"
        ),
        compared(f"{what}: Ray Train / plain loop", on_ray, beside, "rows/s", goal),
        limit(f"{what}: ours / memory limit", side.step, side.batches[0], max(ours)),
    ]


def _beside_peers(side: Contestant, settings: Settings) -> list[Outcome]:
    rows = export_rows(side.rows, settings.out / "peer_rows")
    python = peer_python(settings.out)
    sizes: dict[str, int] = {}

    def measure(peer: str) -> float:
        said = run_script(python, "peer_training.py", peer, str(rows)).said
        sizes[peer] = said["parameters"]
        return float(said["rows_per_second"])

    names = _PEERS[side.role]
    measures: list[Callable[[], float]] = [side.fitted]
    measures += [lambda p=peer: measure(p) for peer in names]  # type: ignore[misc]
    ours, *theirs = interleave(measures, settings.repeats, warm_ups=0)
    own = sum(p.numel() for p in side.step.parameters())
    return [
        compared(
            f"{side.role} / {peer}",
            ours,
            figures,
            "rows/s",
            at_least(3.0),
            f"{own:,} and {sizes[peer]:,} parameters",
        )
        for peer, figures in zip(names, theirs, strict=True)
    ]


def _distillation(side: Contestant, settings: Settings) -> Outcome:
    """Compare a pass with list-wise distillation with one without."""
    config = run_config("small").student.model_copy(update={"loop": side.loop})
    log = side.rows.log
    # The price does not depend on what the teacher says.
    taught = np.random.default_rng(0).normal(size=(len(log), log.lists.shape[1]))
    rows = replace(side.rows, wanted="all", teacher_logits=taught.astype(np.float32))

    step = build_student(side.inputs, (rows, None), config)

    def taught_seconds() -> float:
        done = fit(step, rows, None, side.loop, PlainReporter())
        return len(rows) / done.rows_per_second

    def plain_seconds() -> float:
        return len(rows) / side.fitted()

    dear, cheap = interleave([taught_seconds, plain_seconds], settings.repeats)
    what = "student, one pass with list-wise distillation / without"
    return compared(what, dear, cheap, "s", at_most(2.5))
