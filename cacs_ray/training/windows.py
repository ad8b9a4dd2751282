"""The rows that a stage learns from and is judged by, with the lists it reads."""

from dataclasses import replace

import numpy as np

from cacs_ray.features.batch import EncodedLog
from cacs_ray.training.rows import Rows
from cacs_ray.training.stage import StageInput

AGGREGATED_FROM = 10.0
"""Impressions a row stands for on average, from which a log counts as aggregated."""

WindowRows = tuple[Rows, Rows | None]
"""Training and validation; None for an empty validation window."""


def open_windows(inputs: StageInput) -> WindowRows:
    """Open training and validation rows with only the shown creatives."""
    train = inputs.open_log(inputs.encoded_dir, "train")
    validation = inputs.open_log(inputs.encoded_dir, "validation")
    return (
        Rows(train, "shown"),
        Rows(validation, "shown") if len(validation) else None,
    )


def with_lists(rows: WindowRows, configured: float | None) -> tuple[float, WindowRows]:
    """Return the weight of the list-wise click loss, and rows with what it reads."""
    train, validation = rows
    weight = listwise_weight(train.log) if configured is None else configured
    if weight == 0:
        return weight, rows
    return weight, (
        replace(train, wanted="clicked"),
        validation and replace(validation, wanted="clicked"),
    )


def listwise_weight(train: EncodedLog) -> float:
    """Return the weight of the list-wise click loss that suits a log.

    1 for an aggregated log, as of a headline test: many clicks a creative, and ads
    that differ far more than their creatives, so that the plain click loss learns
    ads. 0 for single impressions, where it was measured to cost gain
    (docs/decisions/0008).
    """
    mean_weight = float(np.mean(train.weight, dtype=np.float64))
    return 1.0 if mean_weight >= AGGREGATED_FROM else 0.0
