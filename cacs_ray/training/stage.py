"""What every training stage is given, and how it is run: here or on Ray Train."""

import hashlib
import json
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from cacs_ray.config import Config
from cacs_ray.data.files import read_json, write_json
from cacs_ray.features.batch import EncodedLog
from cacs_ray.features.spec import FeatureSpec
from cacs_ray.features.store import open_encoded
from cacs_ray.models.adaptive_dropout import Counts
from cacs_ray.training.checkpoint import CheckpointStore
from cacs_ray.training.loop import FitResult, fit
from cacs_ray.training.optimizer import LoopConfig
from cacs_ray.training.reporter import (
    OnMetrics,
    RayTrainReporter,
    Reporter,
    ignore_metrics,
)
from cacs_ray.training.rows import Rows
from cacs_ray.training.steps import Step
from cacs_ray.training.warm import Earlier

log = logging.getLogger(__name__)

OpenLog = Callable[[str, str], EncodedLog]
"""Opens one window (`train`, `validation`) of an encoded log's directory."""

RESULT = "result.json"
_FOLLOW_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class StageInput:
    """What all stages read; small enough to be sent to every worker."""

    encoded_dir: str
    """Absolute path of the encoded log, seen by all workers."""
    spec: FeatureSpec
    counts: Counts
    """Training impressions by vocabulary name and index."""
    open_log: OpenLog = open_encoded
    earlier: Earlier | None = None
    """A bundle whose models are gone on from."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Where a stage runs and whom it tells."""

    out_dir: Path
    """Gets model.safetensors, config.json and result.json."""
    num_workers: int = 0
    """Ray Train workers; 0 trains in this process."""
    on_metrics: OnMetrics = ignore_metrics
    """Told steps and epochs; with workers it is called from another thread."""
    checkpoint_dir: Path | None = None
    """Kept between attempts: a run that died goes on from here. None keeps none."""
    cpus_per_worker: float = 0.5
    """Logical; a half leaves room for the data tasks of a small machine."""
    max_failures: int = 3
    """Worker deaths survived before the stage fails."""


@dataclass(frozen=True, slots=True)
class OpenStage:
    """A stage in the process that trains it."""

    step: Step
    train: Rows
    validation: Rows | None
    after: Callable[[], Mapping[str, float]] = dict
    """What is done to the trained step before it is saved; metrics that it changed."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a finished stage left."""

    directory: Path
    """Holds model.safetensors and config.json."""
    metrics: Mapping[str, float]
    """Of the epoch whose weights were kept."""
    num_steps: int
    rows_per_second: float
    step_ms: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds of a step by what they went into, on rank 0."""


class Stage(Protocol):
    """One training stage: what to train, and how to keep it. Can be pickled."""

    @property
    def inputs(self) -> StageInput:
        """What it reads."""
        ...

    @property
    def loop(self) -> LoopConfig:
        """How long and how fast."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of everything that decides the outcome."""
        ...

    def open(self) -> OpenStage:
        """Build the module and open the rows, alike in every worker."""
        ...

    def save(self, step: nn.Module, directory: Path) -> None:
        """Write the trained model."""
        ...


def run_stage(stage: Stage, launch: Launch) -> TrainResult:
    """Train a stage and write its model.

    With a checkpoint directory a stage that died before goes on where it stopped;
    checkpoints of another configuration are ignored.

    Returns:
        What was left in `launch.out_dir`.

    Raises:
        ray.train.TrainingFailedError: workers died more often than allowed.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    # Every report of every epoch is an INFO line there; ours go to `on_metrics`.
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    launch.out_dir.mkdir(parents=True, exist_ok=True)
    metrics_file = launch.out_dir / "metrics.jsonl"
    metrics_file.unlink(missing_ok=True)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={
            "stage": stage,
            "out_dir": launch.out_dir,
            "metrics_file": metrics_file,
            "checkpoint_dir": launch.checkpoint_dir,
        },
        scaling_config=ScalingConfig(
            num_workers=launch.num_workers,
            use_gpu=launch.num_workers > 0 and _has_gpus(),
            resources_per_worker={"CPU": launch.cpus_per_worker}
            if launch.num_workers
            else None,
        ),
        # Ray's own run directory is scratch: resuming is up to our checkpoints,
        # which are checked by digest and do not need the same Ray cluster.
        run_config=RunConfig(
            name=f"run-{uuid.uuid4().hex[:12]}",
            storage_path=str((launch.out_dir / "ray_train").absolute()),
            failure_config=FailureConfig(max_failures=launch.max_failures),
        ),
    )
    with _following(metrics_file, launch.on_metrics):
        trainer.fit()
    result = read_json(launch.out_dir / RESULT)
    return TrainResult(
        launch.out_dir,
        result["metrics"],
        result["num_steps"],
        result["rows_per_second"],
        result["step_ms"],
    )


def train_here(
    stage: Stage,
    reporter: Reporter,
    out_dir: Path | None,
    checkpoint_dir: Path | None = None,
) -> FitResult:
    """Train a stage in this process, as whichever worker the reporter says.

    Args:
        stage: what to train.
        reporter: told about metrics.
        out_dir: where rank 0 writes the model; None writes nothing.
        checkpoint_dir: where to resume from; None keeps no checkpoints.
    """
    store = (
        None
        if checkpoint_dir is None
        else CheckpointStore(checkpoint_dir, stage.fingerprint)
    )
    opened = stage.open()
    result = fit(
        opened.step, opened.train, opened.validation, stage.loop, reporter, store
    )
    if out_dir is not None and reporter.rank == 0:
        result = replace(result, metrics={**result.metrics, **opened.after()})
        stage.save(opened.step, out_dir)
        write_json(
            out_dir / RESULT,
            {
                "metrics": result.metrics,
                "num_steps": result.num_steps,
                "rows_per_second": result.rows_per_second,
                "step_ms": result.step_ms,
            },
        )
    return result


def stage_fingerprint(inputs: StageInput, config: Config, *made_from: Path) -> str:
    """Return a digest of data, features, configuration and earlier models."""
    digest = hashlib.sha256()
    for part in (inputs.encoded_dir, inputs.spec.fingerprint, config.model_dump_json()):
        digest.update(part.encode())
    for name in sorted(inputs.counts):
        digest.update(np.ascontiguousarray(inputs.counts[name]).tobytes())
    earlier = [inputs.earlier.bundle / "manifest.json"] if inputs.earlier else []
    for path in [*made_from, *earlier]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def click_rate_logit(train: EncodedLog) -> float:
    """Return the log-odds of the weighted CTR, where training starts."""
    weight = float(np.sum(train.weight, dtype=np.float64))
    clicks = float(np.dot(train.label.astype(np.float64), train.weight))
    rate = (clicks + 0.5) / (weight + 1.0)
    return float(np.log(rate / (1 - rate)))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from a seed, leaving the caller's generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _train_worker(config: dict[str, Any]) -> None:
    """Run one worker of Ray Train."""
    reporter = RayTrainReporter(config["metrics_file"])
    train_here(config["stage"], reporter, config["out_dir"], config["checkpoint_dir"])


def _has_gpus() -> bool:
    import ray

    if not ray.is_initialized():
        return False
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get("GPU", 0) > 0


@dataclass
class _Follower:
    """Hands the lines of a growing file to a function, each step once."""

    path: Path
    on_metrics: OnMetrics
    offset: int = 0
    seen: set[tuple[int, str]] = field(default_factory=set)

    def forward_new_lines(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.splitlines():
            record = json.loads(line)
            # A resumed run repeats the steps after its checkpoint.
            key = (record["step"], ",".join(sorted(record["metrics"])))
            if key not in self.seen:
                self.seen.add(key)
                self.on_metrics(record["step"], record["metrics"])


@contextmanager
def _following(path: Path, on_metrics: OnMetrics) -> Iterator[None]:
    """Forward metrics while the body runs, the last ones when it has ended."""
    follower = _Follower(path, on_metrics)
    is_over = threading.Event()

    def follow() -> None:
        while not is_over.wait(_FOLLOW_EVERY_S):
            follower.forward_new_lines()

    thread = threading.Thread(target=follow, name="train-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        follower.forward_new_lines()
