"""The training loop of every stage: epochs, steps, exact resume.

Batches are a function of (seed, epoch, pass) alone and are dealt out to the workers
from one global order, so every row is seen once per pass by exactly one worker, and
any number of workers sees the same batches. An epoch of a small log is several
passes: it ends when the model is judged. Randomness inside a step is seeded by
(seed, step) and falls by row: a resumed run needs no other memory of it, and any
number of workers drops the same identities.
"""

import math
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from cacs_ray.features.batch import Batch
from cacs_ray.training.checkpoint import (
    CheckpointStore,
    TensorGroups,
    grouped,
    load_optimizer_tensors,
    optimizer_tensors,
)
from cacs_ray.training.clock import Clock
from cacs_ray.training.exchange import Exchange
from cacs_ray.training.optimizer import (
    LoopConfig,
    learning_rate_factor,
    make_optimizer,
    table_rule,
)
from cacs_ray.training.prefetch import ahead
from cacs_ray.training.randomness import own_randomness, step_seed
from cacs_ray.training.reporter import Reporter
from cacs_ray.training.rows import Rows, moved
from cacs_ray.training.steps import Parts, Step
from cacs_ray.training.tables import TableTrainer, dense_parameters, embedding_tables
from cacs_ray.training.validation import judge


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
    step_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds of a step by what they went into, on this worker: `data_wait`,
    `gather`, `forward`, `backward`, `exchange`, `optimizer`, `report`, `checkpoint`.
    With several workers the exchange of dense gradients is part of `backward`."""


def fit(
    step: Step,
    train: Rows,
    validation: Rows | None,
    config: LoopConfig,
    reporter: Reporter,
    store: CheckpointStore | None = None,
) -> FitResult:
    """Train a module in place and leave its best weights in it.

    Args:
        step: gives the parts of the loss of a batch.
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
    with own_randomness(config):
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
        step: Step,
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
        self.exchange = Exchange(reporter.num_workers)
        rule = table_rule(config, len(train))
        self.tables = {
            name: TableTrainer(table, rule, self.exchange)
            for name, table in embedding_tables(step).items()
        }
        self.parameters = dense_parameters(step)
        self.optimizer = make_optimizer(step, config, len(train))
        self.clock = Clock()
        self.steps_per_pass = config.steps_per_pass(len(train))
        self.steps_per_epoch = config.steps_per_epoch(len(train))
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
        for name, trainer in self.tables.items():
            trainer.load(grouped(checkpoint.tensors["tables"], name))

    def train_epoch(self) -> None:
        started = time.perf_counter()
        self.core.train()
        while self.progress.step_in_epoch < self.steps_per_epoch:
            this_pass, done = divmod(self.progress.step_in_epoch, self.steps_per_pass)
            steps = self._batches(this_pass)[done:]
            with ahead(self._make_batch, steps) as batches:
                for rows in steps:
                    with self.clock.part("data_wait"):
                        batch = next(batches)
                    self._train_step(*batch)
                    self.clock.steps += 1
                    self.num_rows_trained += len(rows)
        for trainer in self.tables.values():
            trainer.settle()
        self.seconds += time.perf_counter() - started

    def _make_batch(self, global_rows: np.ndarray) -> tuple[Batch, list[Tensor]]:
        """Return this worker's part of a step, and the rows of tables it names."""
        rows = global_rows[self.reporter.rank :: self.reporter.num_workers]
        batch = self.train.batch(rows, torch.device("cpu"))
        named = [trainer.named_rows(batch) for trainer in self.tables.values()]
        return moved(batch, self.device), named

    def _batches(self, this_pass: int) -> list[np.ndarray]:
        """Cut a pass into batches of all workers together."""
        order = np.random.default_rng(
            [self.config.seed, self.progress.epoch, this_pass]
        )
        # As equal as possible, so that no worker is left without rows at the end.
        return np.array_split(order.permutation(len(self.train)), self.steps_per_pass)

    def _train_step(self, batch: Batch, named: list[Tensor]) -> None:
        progress = self.progress
        # The same on every worker: coins fall by row, not by worker.
        torch.manual_seed(step_seed(self.config.seed, progress.step))
        factor = self._set_learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        with ExitStack() as stack:
            with self.clock.part("gather"):
                for trainer, rows in zip(self.tables.values(), named, strict=True):
                    stack.enter_context(trainer.open(rows))
            with self.clock.part("exchange"):
                shares = self._shares(batch)
            with self.clock.part("forward"):
                parts = self.module(batch, shares)
            with self.clock.part("backward"):
                parts["loss"].backward()
            with self.clock.part("optimizer"):
                self.optimizer.step()
                for trainer in self.tables.values():
                    trainer.step(factor)
        progress.step += 1
        progress.step_in_epoch += 1
        with self.clock.part("report"):
            self._note(parts)
        with self.clock.part("checkpoint"):
            self._save_now_and_then()

    def _shares(self, batch: Batch) -> Parts | None:
        """Return this worker's share of each part's weight; None when alone."""
        world = self.reporter.num_workers
        if world == 1:
            return None
        with torch.no_grad():
            own = self.core.totals(batch)
            names = list(own)
            mine = torch.stack([own[name].double() for name in names])
            all_of_them = self.exchange.sum(mine.clone()).clamp(min=1e-30)
            shares = (mine * world / all_of_them).float()
        return dict(zip(names, shares.unbind(), strict=True))

    def _note(self, parts: Parts) -> None:
        """Add a step's parts to the epoch's sums; tell them now and then."""
        progress, reporter = self.progress, self.reporter
        values = torch.stack([value.detach() for value in parts.values()])
        if progress.step % self.config.report_every_steps == 0:
            told = self.exchange.sum(values.clone()) / reporter.num_workers
            if reporter.rank == 0:
                named = zip(parts, told.tolist(), strict=True)
                reporter.log(progress.step, {f"train/{n}": v for n, v in named})
        for name, value in zip(parts, values.tolist(), strict=True):
            progress.sums[name] = progress.sums.get(name, 0.0) + value

    def _save_now_and_then(self) -> None:
        progress = self.progress
        every = self.config.checkpoint_every_steps
        if (
            every
            and progress.step % every == 0
            and progress.step_in_epoch < self.steps_per_epoch
        ):
            self._save()

    def end_epoch(self) -> None:
        progress = self.progress
        self._share_sums()
        metrics = {
            f"train/{name}": value / self.steps_per_epoch
            for name, value in sorted(progress.sums.items())
        }
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
        split = {f"step_ms/{part}": ms for part, ms in self.clock.step_ms().items()}
        self.reporter.end_epoch(progress.step, {**metrics, **speed, **split})

    def finish(self) -> FitResult:
        if self.best:
            self.core.load_state_dict(self.best)
        self.core.eval()
        return FitResult(
            self.best_metrics,
            self.progress.step,
            self._rows_per_second(),
            self.clock.step_ms(),
        )

    def _validate(self) -> dict[str, float]:
        """Parts of the loss over all validation rows of all workers."""
        if self.validation is None or len(self.validation) == 0:
            return {}
        return judge(
            self.core,
            self.validation,
            batch_size=self.config.batch_size,
            rank=self.reporter.rank,
            num_workers=self.reporter.num_workers,
            over_workers=self._over_workers,
        )

    def _over_workers(self, sums: Tensor) -> Tensor:
        return self.exchange.sum(sums.double().to(self.device)).cpu()

    def _save(self) -> None:
        if self.store is None:
            return
        self._share_sums()
        if self.reporter.rank != 0:
            return
        tensors: TensorGroups = {
            "model": self.core.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, self.parameters),
            "tables": {
                f"{name}|{key}": value
                for name, trainer in self.tables.items()
                for key, value in trainer.state().items()
            },
            "best": self.best,
        }
        saved = asdict(self.progress) | {"best_metrics": self.best_metrics}
        if math.isinf(self.progress.best_loss):
            saved["best_loss"] = None
        self.store.save(self.progress.step, tensors, saved)

    def _share_sums(self) -> None:
        """Give every worker the mean of all sums: one checkpoint serves them all."""
        world, sums = self.reporter.num_workers, self.progress.sums
        if world == 1 or not sums:
            return
        names = sorted(sums)
        own = torch.tensor([sums[name] for name in names], dtype=torch.float64)
        means = (self._over_workers(own) / world).tolist()
        self.progress.sums = dict(zip(names, means, strict=True))

    def _set_learning_rate(self) -> float:
        factor = learning_rate_factor(
            self.progress.step,
            self.config,
            self.steps_per_epoch * self.config.num_epochs,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return factor

    def _rows_per_second(self) -> float:
        return self.num_rows_trained / self.seconds if self.seconds else 0.0
