"""Whom a training loop tells what it sees: Ray Train, Tune, or a plain caller.

The loop knows only the `Reporter` protocol, so the same loop runs as one of many
workers, as a trial of a sweep, and inside a test.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from cacs_ray.training.tables import embedding_tables

Metrics = Mapping[str, float]

OnMetrics = Callable[[int, dict[str, float]], None]
"""Called with the step and the metrics by name."""


def ignore_metrics(step: int, metrics: dict[str, float]) -> None:
    """Tell nobody."""


class Reporter(Protocol):
    """What the loop needs from whoever runs it."""

    @property
    def rank(self) -> int:
        """Number of this worker, from 0."""
        ...

    @property
    def num_workers(self) -> int:
        """Workers that train together, 1 or more."""
        ...

    def prepare(self, step: nn.Module) -> tuple[nn.Module, torch.device]:
        """Return the module to train (perhaps wrapped) and its device."""
        ...

    def log(self, step: int, metrics: Metrics) -> None:
        """Take metrics of a step; called on rank 0 only, now and then."""
        ...

    def end_epoch(self, step: int, metrics: Metrics) -> None:
        """Take an epoch's metrics; called on every worker, equally often."""
        ...


class PlainReporter:
    """One process, metrics handed to a function."""

    rank = 0
    num_workers = 1

    def __init__(self, on_metrics: OnMetrics = ignore_metrics) -> None:
        self._on_metrics = on_metrics

    def prepare(self, step: nn.Module) -> tuple[nn.Module, torch.device]:
        """Leave the module as it is, on the CPU."""
        return step, torch.device("cpu")

    def log(self, step: int, metrics: Metrics) -> None:
        """Hand the metrics on."""
        self._on_metrics(step, dict(metrics))

    def end_epoch(self, step: int, metrics: Metrics) -> None:
        """Hand the metrics on."""
        self._on_metrics(step, dict(metrics))


class TuneReporter(PlainReporter):
    """One trial of a sweep: epochs go to Tune's scheduler, which may stop it."""

    def end_epoch(self, step: int, metrics: Metrics) -> None:
        """Report to Tune; the step goes along as `step`."""
        from ray import tune

        super().end_epoch(step, metrics)
        tune.report({**metrics, "step": step})


class RayTrainReporter:
    """One worker of Ray Train.

    Metrics of steps go to a file that the driver follows: `ray.train.report` is a
    barrier for all workers and is called once an epoch.

    Args:
        metrics_file: JSON lines, written by rank 0.
    """

    def __init__(self, metrics_file: Path) -> None:
        import ray.train

        context = ray.train.get_context()
        self._rank: int = context.get_world_rank()
        self._num_workers: int = context.get_world_size()
        self._metrics_file = metrics_file

    @property
    def rank(self) -> int:
        """Number of this worker."""
        return self._rank

    @property
    def num_workers(self) -> int:
        """Workers of the group."""
        return self._num_workers

    def prepare(self, step: nn.Module) -> tuple[nn.Module, torch.device]:
        """Move to this worker's device; wrap for DDP when there are others."""
        import ray.train.torch

        device = ray.train.torch.get_device()
        # Their rows travel by themselves: DDP would send whole tables.
        ignored = [f"{name}.weight" for name in embedding_tables(step)]
        ignore = nn.parallel.DistributedDataParallel
        ignore._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
            step, ignored
        )
        # Buffers (impression counts, shared vectors) never change in training.
        prepared = ray.train.torch.prepare_model(
            step, parallel_strategy_kwargs={"broadcast_buffers": False}
        )
        return prepared, device

    def log(self, step: int, metrics: Metrics) -> None:
        """Append a line for the driver."""
        line = json.dumps({"step": step, "metrics": dict(metrics)})
        with self._metrics_file.open("a") as file:
            file.write(line + "\n")

    def end_epoch(self, step: int, metrics: Metrics) -> None:
        """Report to Ray Train, all workers together."""
        import ray.train

        if self.rank == 0:
            self.log(step, metrics)
        ray.train.report({**metrics, "step": step})
