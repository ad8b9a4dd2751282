"""Train, validation and test windows: by time, never by row.

A model is judged on what came after all it learnt from; a row picked at random
would be judged by its own neighbours.
"""

from itertools import pairwise
from typing import Final, Literal, Self

import numpy as np
import pydantic
from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.data.summary import LogSummary
from cacs_ray.errors import InputError

_DAY_US: Final = 86_400_000_000
_MIN_DAYS: Final = 5
_ENOUGH_SHARE: Final = 0.05
_ENOUGH_ROWS: Final = 20_000


class SplitSettings(Config):
    """How a log is cut."""

    by: Literal["auto", "days", "rows"] = "auto"
    """`days`: the last UTC day is the test, the day before is the validation.
    `rows`: shares of the rows in order of time. `auto`: days when the log covers
    at least 5 and each of the two holds 5 % of the rows or 20,000, else rows."""
    validation_share: float = Field(default=0.15, gt=0, lt=0.5)
    test_share: float = Field(default=0.15, gt=0, lt=0.5)
    """Shares of the rows, used by `rows`."""


class Windows(Config):
    """Three half-open windows of request_ts, one after the other, in us."""

    train_start_us: int
    train_end_us: int
    """End of training and start of validation."""
    validation_end_us: int
    """End of validation and start of the test."""
    test_end_us: int

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> Self:
        edges = list(self.model_dump().values())
        if any(a >= b for a, b in pairwise(edges)):
            raise ValueError(f"windows must follow each other, got {edges}")
        return self

    @property
    def train(self) -> tuple[int, int]:
        """[start, end) of training."""
        return self.train_start_us, self.train_end_us

    @property
    def validation(self) -> tuple[int, int]:
        """[start, end) of validation."""
        return self.train_end_us, self.validation_end_us

    @property
    def test(self) -> tuple[int, int]:
        """[start, end) of the test."""
        return self.validation_end_us, self.test_end_us


def split_windows(
    summary: LogSummary, settings: SplitSettings | None = None
) -> Windows:
    """Cut a log's time into train, validation and test.

    Args:
        summary: of the validated log.
        settings: `auto` with 15 % each by default.

    Returns:
        Windows that cover every accepted row, each holding at least one. Rows of
        one moment are never parted.

    Raises:
        InputError: the log has fewer than three distinct times, or `days` is
            asked of a log without rows on each of its last three days.
    """
    settings = settings or SplitSettings()
    if settings.by == "rows":
        return _by_rows(summary, settings)
    by_days = _by_days(summary)
    if settings.by == "days":
        if by_days is None:
            raise InputError(
                "the last two days and a day before them need rows",
                source="impressions",
                rule="time_split",
            )
        return by_days
    use_days = by_days is not None and _days_are_enough(summary)
    return by_days if by_days and use_days else _by_rows(summary, settings)


def _days_are_enough(summary: LogSummary) -> bool:
    days = np.array(sorted(summary.rows_per_day), dtype="datetime64[D]")
    if (days[-1] - days[0]).astype(int) + 1 < _MIN_DAYS:
        return False
    total = summary.rows.accepted
    ends = sorted(summary.rows_per_day.items())[-2:]
    return all(
        rows >= _ENOUGH_ROWS or rows >= _ENOUGH_SHARE * total for _, rows in ends
    )


def _by_days(summary: LogSummary) -> Windows | None:
    """Cut at the last two midnights; None when a window would be empty."""
    days = np.array(sorted(summary.rows_per_day), dtype="datetime64[D]").astype(int)
    if len(days) < 3 or days[-1] - days[-2] != 1 or summary.first_ts_us is None:
        return None
    last = int(days[-1])
    return Windows(
        train_start_us=summary.first_ts_us,
        train_end_us=(last - 1) * _DAY_US,
        validation_end_us=last * _DAY_US,
        test_end_us=(last + 1) * _DAY_US,
    )


def _by_rows(summary: LogSummary, settings: SplitSettings) -> Windows:
    """Cut just after the moments nearest to the wanted shares of rows."""
    at = [point for point, _ in summary.timeline]
    if len(at) < 3:
        raise InputError(
            f"{len(at)} distinct request times cannot be cut into three windows",
            source="impressions",
            rule="time_split",
        )
    share = np.cumsum([rows for _, rows in summary.timeline]) / summary.rows.accepted
    test_from = 1.0 - settings.test_share
    train_until = test_from - settings.validation_share
    # Each window keeps at least one moment, however unequal the moments are.
    last = len(at) - 1
    validated = int(np.clip(np.abs(share - test_from).argmin(), 1, last - 1))
    trained = int(np.clip(np.abs(share - train_until).argmin(), 0, validated - 1))
    return Windows(
        train_start_us=at[0],
        train_end_us=at[trained] + 1,
        validation_end_us=at[validated] + 1,
        test_end_us=at[last] + 1,
    )
