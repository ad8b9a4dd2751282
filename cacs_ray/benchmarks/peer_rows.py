"""Training rows as plain arrays, for programs that know nothing of us."""

from pathlib import Path

import numpy as np

from cacs_ray.data.files import atomic_directory, write_json
from cacs_ray.training.rows import Rows


def export_rows(rows: Rows, out: Path) -> Path:
    """Write every field of every row joined, and the sizes of the tables.

    Args:
        rows: a training window; the shown creative is the row's creative.
        out: a directory, made whole; one that is there already is kept.

    Returns:
        `out`, with one `.npy` per field ([N] or [N, width]), `label.npy` and
        `fields.json`: key to {"kind", "size", "width", "table"}.
    """
    if out.exists():
        return out
    log = rows.log
    shown = log.lists[log.list_row, log.shown_index]
    sides = (
        (log.users, log.user_row),
        (log.requests, slice(None)),
        (log.ads, log.ad_row),
        (log.creatives, shown),
    )
    fields = {}
    with atomic_directory(out) as partial:
        for arrays, place in sides:
            for key, array in arrays.items():
                values = np.asarray(array)[place]
                is_index = np.issubdtype(values.dtype, np.integer)
                fields[key] = {
                    "is_index": is_index,
                    "size": int(array.max()) + 1 if is_index else 0,
                    "width": 1 if values.ndim == 1 else values.shape[1],
                }
                kind = np.int32 if is_index else np.float32
                np.save(partial / f"{key}.npy", values.astype(kind))
        np.save(partial / "label.npy", np.asarray(log.label, np.float32))
        write_json(partial / "fields.json", fields)
    return out
