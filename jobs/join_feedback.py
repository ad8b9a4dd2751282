"""Turn a decision log and its clicks into impressions to learn from.

python -m jobs.join_feedback --decisions DIR --clicks DIR --out DIR
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from cacs_ray.command import add_path, job_parser, run_job
from cacs_ray.data.feedback import count_clicks, join_feedback, read_table
from cacs_ray.data.files import atomic_directory, refuse_foreign, write_table
from cacs_ray.schema import CLICKS, DECISIONS


def _join(args: argparse.Namespace) -> dict[str, object]:
    refuse_foreign(args.out, "part-*.parquet")
    decisions = read_table(args.decisions, DECISIONS)
    clicks = read_table(args.clicks, CLICKS)
    window = {"attribution_window_s": args.window_s}
    impressions: pa.Table = join_feedback(decisions, clicks, **window)
    counts = count_clicks(decisions, clicks, **window)
    with atomic_directory(args.out) as folder:
        write_table(folder / "part-00000.parquet", impressions)
    clicked = {f"clicks_{name}": n for name, n in counts.model_dump().items()}
    return {"out": Path(args.out), "impressions": impressions.num_rows, **clicked}


def _positive(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Join, and print how many impressions there are and what clicks became."""
    parser = job_parser(__doc__, "jobs.join_feedback")
    add_path(parser, "--decisions", "decision log: a file or a directory")
    add_path(parser, "--clicks", "clicks: a file or a directory")
    add_path(parser, "--out", "impressions directory to make")
    parser.add_argument(
        "--window-s",
        type=_positive,
        default=1800.0,
        help="seconds in which a click counts",
    )
    return run_job(parser, _join, argv)


if __name__ == "__main__":
    sys.exit(main())
