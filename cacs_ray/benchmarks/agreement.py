"""Whether the peers wrote the same encoded rows as we: else no ratio has a meaning."""

from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from cacs_ray.features.batch import EncodedLog
from cacs_ray.features.store import open_encoded

# Version 0 of ours is the unknown ad's, which the peers leave out.
_COLUMNS: Final = ("user_row", "ad_row", "list_row", "shown_index", "slot", "label")


def our_rows(out: Path, window: str) -> pl.DataFrame:
    """Return the encoded rows of one window that we wrote, in one order.

    Args:
        out: directory of our side.
        window: `train`, `validation` or `test`.
    """
    log = open_encoded(out / "encoded", window)
    columns = {name: np.asarray(getattr(log, name)) for name in _COLUMNS}
    return _ordered(
        pl.DataFrame(columns | {"ts": np.asarray(log.request_ts), "device": _only(log)})
    )


def their_rows(out: Path, window: str) -> pl.DataFrame:
    """Return the same of a peer; columns and their types are ours."""
    file = out / f"{window}.parquet"
    return _ordered(pl.read_parquet(file, columns=[*_COLUMNS, "ts", "device"]))


def _only(log: EncodedLog) -> np.ndarray:
    (values,) = log.requests.values()
    return np.asarray(values)


def _ordered(rows: pl.DataFrame) -> pl.DataFrame:
    columns = [*_COLUMNS, "ts", "device"]
    return rows.select(pl.col(columns).cast(pl.Int64)).sort(columns)
