"""The circle closes: decisions and clicks become impressions, or a whole dataset."""

from pathlib import Path

import pyarrow as pa

from cacs_ray.data.dataset import read_dataset, write_feedback_dataset
from cacs_ray.data.feedback import (
    count_clicks,
    count_repeats,
    join_feedback,
    read_table,
)
from cacs_ray.data.files import atomic_directory, refuse_foreign, write_table
from cacs_ray.schema import CLICKS, DECISIONS


def join_logs(
    decisions: str,
    clicks: str,
    out: str | Path,
    *,
    window_s: float,
    dataset: str | Path | None = None,
) -> dict[str, object]:
    """Join a decision log with its clicks.

    Args:
        decisions: file or directory of the decision log.
        clicks: file or directory of clicks.
        out: made whole or not at all: impressions as Parquet, or, with `dataset`, a
            directory that `jobs.cycle --logs` takes.
        window_s: seconds in which a click counts, > 0.
        dataset: what the serving bundle was trained on; its entities and features
            become those of the new dataset.

    Returns:
        Counts for the job's last line.

    Raises:
        InputError: a file is damaged or missing, or `out` holds something else.
    """
    refuse_foreign(out, "part-*.parquet", "dataset.yaml", "impressions")
    like = None if dataset is None else read_dataset(dataset)
    decided = read_table(decisions, DECISIONS)
    clicked = read_table(clicks, CLICKS)
    impressions: pa.Table = join_feedback(
        decided, clicked, attribution_window_s=window_s
    )
    counts = count_clicks(decided, clicked, attribution_window_s=window_s)
    with atomic_directory(out) as folder:
        place = folder if like is None else folder / "impressions"
        write_table(place / "part-00000.parquet", impressions)
        if like is not None:
            write_feedback_dataset(folder, like)
    numbers = {f"clicks_{name}": n for name, n in counts.model_dump().items()}
    return {
        "out": Path(out),
        "impressions": impressions.num_rows,
        "repeated_decisions": count_repeats(decided),
        **numbers,
    }
