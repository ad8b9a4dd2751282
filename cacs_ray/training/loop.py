"""The training loop of every stage: epochs, steps, exact resume.

Batches are a function of (seed, epoch, pass) alone and are dealt out to the workers
from one global order, so every row is seen once per pass by exactly one worker, and
any number of workers sees the same batches. An epoch of a small log is several
passes: it ends when the model is judged. Randomness inside a step is seeded by
(seed, step, worker): a resumed run needs no other memory of it.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor, nn

from cacs_ray.features.batch import Batch, EncodedLog, ListsWanted
from cacs_ray.training.checkpoint import (
    CheckpointStore,
    TensorGroups,
    load_optimizer_tensors,
    optimizer_tensors,
)
from cacs_ray.training.optimizer import LoopConfig, learning_rate_factor, make_optimizer
from cacs_ray.training.reporter import Reporter


@dataclass(frozen=True, slots=True)
class Rows:
    """What a stage sees of one window."""

    log: EncodedLog
    wanted: ListsWanted
    """Rows whose whole list is read."""
    teacher_logits: np.ndarray | None = None
    """float32 [N, C], may be memory-mapped."""

    def __len__(self) -> int:
        return len(self.log)

    def batch(self, rows: np.ndarray, device: torch.device) -> Batch:
        """Return some rows as tensors on a device."""
        taught = None if self.teacher_logits is None else self.teacher_logits[rows]
        batch = self.log.batch(rows, taught, wanted=self.wanted)
        return batch if device.type == "cpu" else _moved(batch, device)


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best_loss: float = math.inf
    best_epoch: int = -1
    is_finished: bool = False
    sums: dict[str, float] = field(default_factory=dict)
    """Running sums of this epoch's step metrics on this worker."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """What training says about itself."""

    metrics: dict[str, float]
    """Of the epoch whose weights were kept, validation under `validation/`."""
    num_steps: int
    rows_per_second: float
    """Of this worker's group, over the epochs trained in this process."""


def fit(
    step: nn.Module,
    train: Rows,
    validation: Rows | None,
    config: LoopConfig,
    reporter: Reporter,
    store: CheckpointStore | None = None,
) -> FitResult:
    """Train a module in place and leave its best weights in it.

    Args:
        step: called with a `Batch`, returns scalars by name; `loss` is minimised.
        train: rows to learn from.
        validation: rows to judge by after each epoch (smallest `loss` wins); None
            keeps the last weights.
        config: how long and how fast.
        reporter: told about metrics; says which worker this is.
        store: where to resume from and keep checkpoints; None keeps none.

    Returns:
        Metrics of the kept epoch.

    Raises:
        ValueError: there are fewer rows than workers.
    """
    if len(train) < reporter.num_workers:
        raise ValueError(
            f"{len(train)} rows cannot be shared by {reporter.num_workers} workers"
        )
    with _own_randomness(config):
        run = _Run(step, train, validation, config, reporter, store)
        run.resume()
        while not run.progress.is_finished:
            run.train_epoch()
            run.end_epoch()
        return run.finish()


class _Run:
    """One worker's share of one run."""

    def __init__(
        self,
        step: nn.Module,
        train: Rows,
        validation: Rows | None,
        config: LoopConfig,
        reporter: Reporter,
        store: CheckpointStore | None,
    ) -> None:
        self.core, self.config, self.reporter, self.store = (
            step,
            config,
            reporter,
            store,
        )
        self.train, self.validation = train, validation
        self.module, self.device = reporter.prepare(step)
        self.parameters = {
            name: p for name, p in step.named_parameters() if p.requires_grad
        }
        self.optimizer = make_optimizer(step, config, len(train))
        self.steps_per_pass = config.steps_per_pass(len(train))
        self.steps_per_epoch = self.steps_per_pass * config.num_passes(len(train))
        self.progress = Progress(is_finished=config.num_epochs == 0)
        self.best: dict[str, Tensor] = {}
        self.best_metrics: dict[str, float] = {}
        self.num_rows_trained, self.seconds = 0, 0.0

    def resume(self) -> None:
        checkpoint = None if self.store is None else self.store.latest()
        if checkpoint is None:
            return
        saved = dict(checkpoint.progress)
        self.best_metrics = saved.pop("best_metrics")
        if saved["best_loss"] is None:
            saved["best_loss"] = math.inf
        self.progress = Progress(**saved)
        self.core.load_state_dict(checkpoint.tensors["model"])
        self.best = dict(checkpoint.tensors["best"])
        load_optimizer_tensors(
            self.optimizer, checkpoint.tensors["optimizer"], self.parameters
        )

    def train_epoch(self) -> None:
        started = time.perf_counter()
        self.core.train()
        while self.progress.step_in_epoch < self.steps_per_epoch:
            this_pass, done = divmod(self.progress.step_in_epoch, self.steps_per_pass)
            for rows in self._batches(this_pass)[done:]:
                self._train_step(rows)
                self.num_rows_trained += len(rows)
        self.seconds += time.perf_counter() - started

    def _batches(self, this_pass: int) -> list[np.ndarray]:
        """Cut a pass into batches of all workers together."""
        order = np.random.default_rng(
            [self.config.seed, self.progress.epoch, this_pass]
        )
        # As equal as possible, so that no worker is left without rows at the end.
        return np.array_split(order.permutation(len(self.train)), self.steps_per_pass)

    def _train_step(self, global_rows: np.ndarray) -> None:
        progress, reporter = self.progress, self.reporter
        rows = global_rows[reporter.rank :: reporter.num_workers]
        torch.manual_seed(_step_seed(self.config.seed, progress.step, reporter.rank))
        self._set_learning_rate()
        parts = self.module(self.train.batch(rows, self.device))
        self.optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        self.optimizer.step()
        progress.step += 1
        progress.step_in_epoch += 1
        values = torch.stack([value.detach() for value in parts.values()]).tolist()
        for name, value in zip(parts, values, strict=True):
            progress.sums[name] = progress.sums.get(name, 0.0) + value
        if reporter.rank == 0 and progress.step % self.config.report_every_steps == 0:
            metrics = {f"train/{n}": v for n, v in zip(parts, values, strict=True)}
            reporter.log(progress.step, metrics)
        every = self.config.checkpoint_every_steps
        if (
            every
            and progress.step % every == 0
            and progress.step_in_epoch < self.steps_per_epoch
        ):
            self._save()

    def end_epoch(self) -> None:
        progress = self.progress
        names = sorted(progress.sums)
        sums = torch.tensor([progress.sums[name] for name in names])
        means = self._over_workers(sums) / (
            self.steps_per_epoch * self.reporter.num_workers
        )
        metrics = {f"train/{n}": v for n, v in zip(names, means.tolist(), strict=True)}
        if not math.isfinite(metrics.get("train/loss", 0.0)):
            raise FloatingPointError(f"training diverged in epoch {progress.epoch}")
        metrics |= {f"validation/{n}": v for n, v in self._validate().items()}
        loss = metrics.get("validation/loss", -float(progress.epoch))
        if not self.best_metrics or loss < progress.best_loss:
            progress.best_loss, progress.best_epoch = loss, progress.epoch
            self.best_metrics = {**metrics, "epoch": float(progress.epoch)}
            if self.validation is not None:
                self.best = {
                    name: tensor.detach().clone()
                    for name, tensor in self.core.state_dict().items()
                }
        is_stale = 0 < self.config.patience <= progress.epoch - progress.best_epoch
        progress.epoch += 1
        progress.step_in_epoch = 0
        progress.sums = {}
        progress.is_finished = is_stale or progress.epoch >= self.config.num_epochs
        self._save()
        speed = {"rows_per_second": self._rows_per_second()}
        self.reporter.end_epoch(progress.step, {**metrics, **speed})

    def finish(self) -> FitResult:
        if self.best:
            self.core.load_state_dict(self.best)
        self.core.eval()
        return FitResult(self.best_metrics, self.progress.step, self._rows_per_second())

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Weighted mean of the step's parts over the validation rows."""
        if self.validation is None or len(self.validation) == 0:
            return {}
        self.core.eval()
        sums: dict[str, Tensor] = {}
        rank, world = self.reporter.rank, self.reporter.num_workers
        if len(self.validation) < world:  # too few to share: everyone takes all
            rank, world = 0, 1
        for rows in _blocks(len(self.validation), self.config.batch_size):
            mine = rows[rank::world]
            if len(mine) == 0:
                continue
            batch = self.validation.batch(mine, self.device)
            weight = batch.weight.sum().double()
            sums["weight"] = sums.get("weight", torch.zeros(())) + weight
            # The bare module: a wrapped one would wait for the other workers.
            for name, value in self.core(batch).items():
                sums[name] = sums.get(name, torch.zeros(())) + value * weight
        names = sorted(sums)
        totals = self._over_workers(torch.stack([sums[name] for name in names]))
        by_name = dict(zip(names, totals.tolist(), strict=True))
        weight_sum = by_name.pop("weight") or 1.0
        return {name: total / weight_sum for name, total in by_name.items()}

    def _over_workers(self, sums: Tensor) -> Tensor:
        summed = sums.double().to(self.device)
        if self.reporter.num_workers > 1:
            torch.distributed.all_reduce(summed)
        return summed.cpu()

    def _save(self) -> None:
        if self.store is None or self.reporter.rank != 0:
            return
        tensors: TensorGroups = {
            "model": self.core.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, self.parameters),
            "best": self.best,
        }
        saved = asdict(self.progress) | {"best_metrics": self.best_metrics}
        if math.isinf(self.progress.best_loss):
            saved["best_loss"] = None
        self.store.save(self.progress.step, tensors, saved)

    def _set_learning_rate(self) -> None:
        factor = learning_rate_factor(
            self.progress.step,
            self.config,
            self.steps_per_epoch * self.config.num_epochs,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def _rows_per_second(self) -> float:
        return self.num_rows_trained / self.seconds if self.seconds else 0.0


@contextmanager
def _own_randomness(config: LoopConfig) -> Iterator[None]:
    """Leave the caller's generator and threads as they were."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            torch.set_num_threads(num_threads)


def _step_seed(seed: int, step: int, rank: int) -> int:
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    return int(state[0])


def _blocks(num_rows: int, size: int) -> Iterator[np.ndarray]:
    for start in range(0, num_rows, size):
        yield np.arange(start, min(start + size, num_rows))


def _moved(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with every tensor on a device."""
    changes: dict[str, object] = {}
    for item in fields(batch):
        value = getattr(batch, item.name)
        if isinstance(value, Tensor):
            changes[item.name] = value.to(device, non_blocking=True)
        elif isinstance(value, Mapping):
            changes[item.name] = {
                k: v.to(device, non_blocking=True) for k, v in value.items()
            }
    return replace(batch, **changes)  # type: ignore[arg-type]
