"""Write a public data set as a dataset of the log contract.

python -m jobs.import_public upworthy --src DIR --out DIR
"""

import argparse
import sys
from collections.abc import Sequence

from cacs_ray.command import add_path, job_parser, run_job
from cacs_ray.data.public import import_open_bandit, import_upworthy


def _import(args: argparse.Namespace) -> dict[str, object]:
    if args.name == "upworthy":
        counts = import_upworthy(args.src, args.out)
    else:
        counts = import_open_bandit(args.src, args.out, campaign=args.campaign)
    return {"out": args.out, **counts}


def main(argv: Sequence[str] | None = None) -> int:
    """Import, and print where the dataset is and what it holds."""
    parser = job_parser(__doc__, "jobs.import_public")
    parser.add_argument(
        "name", choices=["upworthy", "open_bandit"], help="which data set"
    )
    add_path(parser, "--src", "directory with the public files")
    add_path(parser, "--out", "dataset directory to make")
    parser.add_argument(
        "--campaign",
        choices=["all", "men", "women"],
        default="all",
        help="part of open_bandit",
    )
    return run_job(parser, _import, argv)


if __name__ == "__main__":
    sys.exit(main())
