"""Impressions that stand in the log twice, found without holding the log.

The key (request_id, ad_id) of every row is hashed to 64 bits, 8 bytes a row on
the driver. Only rows whose hash repeats are then read again and compared exactly.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from cacs_ray.data.casting import cast_table
from cacs_ray.data.declaration import LayoutColumn
from cacs_ray.data.reading import TableFile, read_batches
from cacs_ray.schema import Column

_KEY = (Column.REQUEST_ID, Column.AD_ID)
# Fixed, so that all processes of a run give equal keys equal hashes.
_SEED = 20_220_711


def key_hashes(impressions: pa.Table) -> np.ndarray:
    """Hash the key of each impression: uint64 [N]."""
    keys = pl.DataFrame(impressions.select(list(_KEY)))
    return keys.select(pl.struct(*_KEY).hash(_SEED)).to_series().to_numpy()


def find_duplicates(
    files: Sequence[TableFile],
    hashes: Sequence[np.ndarray],
    layout: tuple[LayoutColumn, ...],
) -> dict[int, np.ndarray]:
    """Find the rows whose key stood already in an earlier row.

    Args:
        files: the log, in file order; that order says which row is earlier.
        hashes: `key_hashes` of each file's rows.
        layout: the columns of impressions.

    Returns:
        File index to its duplicate row numbers (int64, rising); only files that
        have any.
    """
    repeated = _repeated(np.concatenate(hashes))
    if not len(repeated):
        return {}
    keys = tuple(column for column in layout if column.name in _KEY)
    suspects = []
    for index, file in enumerate(files):
        is_suspect = np.isin(hashes[index], repeated)
        if is_suspect.any():
            suspects.append(_suspect_keys(file, index, is_suspect, keys))
    table = pl.concat(suspects)
    again = table.filter(~pl.struct(*_KEY).is_first_distinct())
    return {
        int(index): rows["row"].to_numpy()
        for (index,), rows in again.group_by("file", maintain_order=True)
    }


def _repeated(hashes: np.ndarray) -> np.ndarray:
    """Return the values that occur more than once."""
    ordered = np.sort(hashes)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def _suspect_keys(
    file: TableFile,
    index: int,
    is_suspect: np.ndarray,
    keys: tuple[LayoutColumn, ...],
) -> pl.DataFrame:
    """Read the keys of some rows of a file again."""
    pieces, start = [], 0
    for raw in read_batches(file, columns=[column.source for column in keys]):
        rows = np.flatnonzero(is_suspect[start : start + raw.num_rows])
        found = cast_table(raw.take(rows), keys).table
        pieces.append(
            pl.DataFrame(found).with_columns(
                pl.lit(index, dtype=pl.Int64).alias("file"),
                pl.Series("row", rows + start, dtype=pl.Int64),
            )
        )
        start += raw.num_rows
    return pl.concat(pieces)
