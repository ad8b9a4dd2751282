"""What a comparison says: two figures, the ratios of its pairs, and the goal."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cacs_ray.errors import InputError


@dataclass(frozen=True, slots=True)
class Settings:
    """What every comparison is told."""

    out: Path
    """Directory for markets, encoded logs, environments and results; kept."""
    rows: int
    """Impressions of the preprocessing; twice as many in its second market."""
    repeats: int
    """Pairs A B of each comparison, after one warm-up of both."""
    bundle: Path | None = None
    """What the service is timed with; None = made from a market."""

    def __post_init__(self) -> None:
        if self.rows < 1000:
            raise InputError(
                f"{self.rows} rows are too few to time",
                source="--rows",
                rule="at_least_1000",
            )
        if self.repeats < 1:
            raise InputError(
                f"{self.repeats} pairs", source="--repeats", rule="at_least_1"
            )


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound of the median ratio."""

    bound: float
    is_least: bool
    """The ratio must be at least the bound; else at most."""

    def holds(self, value: float) -> bool:
        """Say whether a value keeps the bound."""
        return value >= self.bound if self.is_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.is_least else '<='} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table."""

    comparison: str
    ours: float
    """Median over the repeats, in `unit`."""
    theirs: float | None
    """The same of what it is compared to; None for a figure that stands alone."""
    unit: str
    ratios: tuple[float, ...]
    """Ours / theirs pair by pair, or the figure itself when it stands alone."""
    goal: Goal | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """Median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def is_met(self) -> bool | None:
        """Whether the median keeps the goal; None without a goal."""
        return None if self.goal is None else self.goal.holds(self.median)

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        given = asdict(self) | {"goal": None if self.goal is None else str(self.goal)}
        return given | {"median_ratio": self.median, "is_met": self.is_met}


Comparison = Callable[[Settings], list[Outcome]]
"""Measures one thing; a new one is a function and a line in `bench.COMPARISONS`."""


def at_least(bound: float) -> Goal:
    """Bound the median ratio from below."""
    return Goal(bound, is_least=True)


def at_most(bound: float) -> Goal:
    """Bound the median ratio from above."""
    return Goal(bound, is_least=False)


def interleave(
    measures: Sequence[Callable[[], float]], repeats: int, *, warm_ups: int = 1
) -> list[list[float]]:
    """Measure several things in turns, A B A B, so that a busy moment hits all.

    Args:
        measures: each measures once and returns its figure.
        repeats: turns that count, >= 1.
        warm_ups: turns before them whose figures are dropped.

    Returns:
        Figures by measure, one per turn.

    >>> interleave([iter([9.0, 1.0, 2.0]).__next__], repeats=2)
    [[1.0, 2.0]]
    """
    turns = [[measure() for measure in measures] for _ in range(warm_ups + repeats)]
    return [list(column) for column in zip(*turns[warm_ups:], strict=True)]


def compared(
    comparison: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    unit: str,
    goal: Goal | None = None,
    note: str = "",
) -> Outcome:
    """Return the row of two interleaved series, pair by pair.

    Raises:
        ValueError: the series have not the same length, or are empty.
    """
    return Outcome(
        comparison,
        statistics.median(ours),
        statistics.median(theirs),
        unit,
        tuple(a / b for a, b in zip(ours, theirs, strict=True)),
        goal,
        note,
    )


def alone(
    comparison: str,
    figures: Sequence[float],
    unit: str,
    goal: Goal | None = None,
    note: str = "",
) -> Outcome:
    """Return the row of a figure that is compared with its goal alone."""
    middle = statistics.median(figures)
    return Outcome(comparison, middle, None, unit, tuple(figures), goal, note)
