"""Turn a decision log and its clicks into impressions to learn from.

python -m jobs.join_feedback --decisions DIR --clicks DIR --out DIR
python -m jobs.join_feedback --decisions DIR --clicks DIR --out DIR --dataset LOGS
"""

import argparse
import sys
from collections.abc import Sequence

from cacs_ray.command import add_path, job_parser, run_job
from cacs_ray.recipes.feedback import join_logs


def main(argv: Sequence[str] | None = None) -> int:
    """Join, and print how many impressions there are and what clicks became."""
    parser = job_parser(__doc__, "jobs.join_feedback")
    add_path(parser, "--decisions", "decision log: a file or a directory")
    add_path(parser, "--clicks", "clicks: a file or a directory")
    add_path(parser, "--out", "impressions directory to make")
    parser.add_argument(
        "--dataset",
        metavar="DIR",
        help="dataset that was trained on; --out becomes one like it, for jobs.cycle",
    )
    parser.add_argument(
        "--window-s",
        type=_positive,
        default=1800.0,
        help="seconds in which a click counts",
    )
    return run_job(parser, _join, argv)


def _join(args: argparse.Namespace) -> dict[str, object]:
    return join_logs(
        args.decisions,
        args.clicks,
        args.out,
        window_s=args.window_s,
        dataset=args.dataset,
    )


def _positive(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
