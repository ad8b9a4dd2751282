r"""Check what the service promises, each promise beside a fault that must be found.

python -m jobs.promises --bundle out/demo/cycle/bundle
python -m jobs.promises --bundle out/run/bundle --only load log --minutes-scale 0.05
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from cacs_ray.command import add_path, job_parser, run_job
from cacs_ray.promises.run import PROMISES, run_promises
from cacs_ray.promises.service import GraphName, Plan


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, print what was broken as one line of JSON."""
    parser = job_parser(__doc__, "jobs.promises")
    add_path(parser, "--bundle", "what to serve")
    parser.add_argument("--out", default="out/promises", metavar="DIR", help="results")
    parser.add_argument(
        "--only", nargs="+", default=list(PROMISES), metavar="NAME", help="promises"
    )
    parser.add_argument(
        "--minutes-scale",
        type=float,
        default=1.0,
        metavar="F",
        help="of durations and counts; 0.05 for a quick look",
    )
    parser.add_argument(
        "--graph",
        choices=get_args(GraphName),
        default="fused",
        help="all stages in the gateway's process, as `make serve` (fused), a "
        "deployment for each, as on a cluster, or one for the ranker alone",
    )
    return run_job(parser, promises, argv)


def promises(args: argparse.Namespace) -> dict[str, object]:
    """Check the promises that the options name."""
    plan = Plan(
        Path(args.out).absolute(),
        Path(args.bundle).absolute(),
        args.minutes_scale,
        args.graph,
    )
    return run_promises(plan, args.only)


if __name__ == "__main__":
    sys.exit(main())
