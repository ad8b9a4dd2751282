"""How long and how fast a stage learns, and the optimizer that follows from it."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from cacs_ray.config import Config
from cacs_ray.training.tables import TableRule, dense_parameters


class LoopConfig(Config):
    """How long and how fast to learn."""

    num_epochs: int = Field(ge=0)
    """Rounds of learning and judging at most; each passes over all rows once, or
    more often where they are few."""
    batch_size: int = Field(gt=0)
    """Rows per step, all workers together."""
    min_steps_per_epoch: int = Field(ge=1)
    """A small log is passed over again within an epoch until it has this many."""
    learning_rate: float = Field(gt=0)
    embedding_learning_rate: float = Field(gt=0)
    """Of embedding rows: the longest step of one, in root mean square over its
    numbers, when there is no doubt."""
    embedding_doubt: float = Field(ge=0)
    """What a row's sum of squared gradients starts from, in squares of the gradient
    of one row of log: until as much has been seen, steps are short and in proportion
    to the gradient. 0 lets a single impression move a row by the learning rate."""
    embedding_forgetting: float = Field(ge=0)
    """Nats of decay of every embedding over one pass, touched or not: what a rare
    value learns is held near zero."""
    precision: float = Field(ge=0)
    """1 / variance of the Gaussian prior on every weight but embeddings."""
    schedule: Literal["constant", "cosine"]
    """Learning rate after the warm-up; cosine falls to a twentieth."""
    num_warmup_steps: int = Field(ge=0)
    """Steps over which the learning rate rises."""
    patience: int = Field(ge=0)
    """Epochs without a better validation loss before stopping; 0 never stops."""
    seed: int = Field(ge=0)
    num_threads: int = Field(gt=0)
    """Threads of one worker."""
    report_every_steps: int = Field(gt=0)
    checkpoint_every_steps: int = Field(ge=0)
    """Beside the end of each epoch; 0 = only there."""

    def steps_per_pass(self, num_rows: int) -> int:
        """Return the steps that see each of some rows once."""
        return math.ceil(num_rows / self.batch_size)

    def num_passes(self, num_rows: int) -> int:
        """Return how often an epoch passes over its rows, at least once."""
        return math.ceil(self.min_steps_per_epoch / self.steps_per_pass(num_rows))

    def steps_per_epoch(self, num_rows: int) -> int:
        """Return the steps of one epoch over some rows, all its passes together."""
        return self.steps_per_pass(num_rows) * self.num_passes(num_rows)


def learning_rate_factor(step: int, config: LoopConfig, num_steps: int) -> float:
    """Return what the learning rate is multiplied with at a step, from 0."""
    warmup = config.num_warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    share = (step - warmup) / max(1, num_steps - warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def make_optimizer(
    step: nn.Module, config: LoopConfig, num_rows: int
) -> torch.optim.Optimizer:
    """Return Adam for every weight but embeddings.

    It minimises the mean loss of a row and its share of the prior's cost: a prior of
    precision k costs k / 2 w^2 once per weight, that is k / (2 N) w^2 per row of N:
    the more there is to learn from, the less it holds.
    """
    group = {
        "params": list(dense_parameters(step).values()),
        "lr": config.learning_rate,
        "initial_lr": config.learning_rate,
        "weight_decay": config.precision / num_rows,
    }
    return torch.optim.Adam([group], fused=True)


def table_rule(config: LoopConfig, num_rows: int) -> TableRule:
    """Return how the rows of embedding tables learn from some rows of log."""
    steps = config.steps_per_pass(num_rows)
    return TableRule(
        learning_rate=config.embedding_learning_rate,
        doubt=config.embedding_doubt * (1.0 / config.batch_size) ** 2,
        forgetting=config.embedding_forgetting / steps,
    )
