"""Rows of the load client, made by hand."""

import numpy as np
import polars as pl

from cacs_ray.promises.load import SHOTS

USUAL = {
    "shot_id": "q",
    "scheduled_s": 0.0,
    "lag_ms": 0.0,
    "latency_ms": 10.0,
    "status": 200,
    "first_status": 200,
    "has_retry_after": False,
    "answered_as": "r1",
    "fallback": None,
    "error": None,
    "placements": None,
}


def shots(size, **columns):
    """Return so many rows; a column is one value or a list of them."""
    filled = {**USUAL, **columns}
    return pl.DataFrame(
        {
            name: pl.Series(name, np.broadcast_to(filled[name], size).tolist(), kind)
            for name, kind in SHOTS.items()
        }
    )


def counts(verdict):
    """Return failed, asked, and whether it is kept."""
    return verdict.failed, verdict.asked, verdict.is_kept
