"""How far a training stage is: a bar where somebody watches, else a line an epoch."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cacs_ray.recipes.shown import console, figure
from cacs_ray.training.reporter import OnMetrics

log = logging.getLogger(__name__)

_SPEED = "rows_per_second"
"""Among the metrics of an epoch, and of nothing else."""


@dataclass
class EpochLines:
    """Says one line at the end of every epoch.

    Args:
        stage: name of the stage.
        num_epochs: as configured; training may stop earlier.
        steps_per_epoch: of all epochs; one that goes on after a death is counted on.
    """

    stage: str
    num_epochs: int
    steps_per_epoch: int
    epoch: int = 0

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take what the training loop reports."""
        if _SPEED in metrics:
            self.epoch = step // self.steps_per_epoch
            log.info("%s", epoch_line(self.stage, self.epoch, self.num_epochs, metrics))


def epoch_line(
    stage: str, epoch: int, num_epochs: int, metrics: Mapping[str, float]
) -> str:
    """Say an epoch in one line, its parts apart by two spaces.

    >>> metrics = {"validation/click_loss": 0.1911, "rows_per_second": 64_060.0}
    >>> epoch_line("teacher", 1, 6, metrics)
    'teacher     epoch 1 of 6  validation click_loss 0.1911  64,060 rows/s'
    """
    judged = {
        name.removeprefix("validation/"): value
        for name, value in metrics.items()
        if name.startswith("validation/")
    }
    if len(judged) > 1:  # the sum of the others, weighted
        judged.pop("loss", None)
    shown = "  ".join(f"{name} {figure(value)}" for name, value in judged.items())
    parts = [f"validation {shown}"] if shown else []
    speed = f"{figure(metrics[_SPEED])} rows/s"
    return "  ".join([f"{stage:<11} epoch {epoch} of {num_epochs}", *parts, speed])


@contextmanager
def training_progress(
    stage: str, num_epochs: int, num_rows: int, steps_per_epoch: int
) -> Iterator[OnMetrics]:
    """Show how far a training stage is while the block lasts.

    Args:
        stage: name of the stage.
        num_epochs: as configured; training may stop earlier.
        num_rows: of one epoch.
        steps_per_epoch: in which they are gone through.

    Yields:
        What the training loop shall tell its steps and epochs.
    """
    lines = EpochLines(stage, num_epochs, steps_per_epoch)
    if not console().is_terminal:
        yield lines
        return
    with _bar() as bar:
        task = bar.add_task(f"{stage:<11} starting", total=num_epochs * num_rows)

        def tell(step: int, metrics: Mapping[str, float]) -> None:
            lines(step, metrics)
            _move(bar, task, lines, step * num_rows // steps_per_epoch)

        yield tell


def _move(bar: Progress, task: TaskID, lines: EpochLines, rows: int) -> None:
    epoch = min(lines.epoch + 1, lines.num_epochs)
    text = f"{lines.stage:<11} epoch {epoch} of {lines.num_epochs}"
    bar.update(task, completed=rows, description=text)


class _RowsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} rows/s" if task.speed else "")


def _bar() -> Progress:
    """Return a bar that leaves nothing behind: the lines above it stay."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        _RowsPerSecond(),
        TimeRemainingColumn(),
        console=console(),
        transient=True,
    )
