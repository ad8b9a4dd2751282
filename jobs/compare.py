"""Put runs side by side: what was set, what came out, is it sure, what did it cost.

python -m jobs.compare 'a: smoke cycle in out' 'b: smoke cycle in out' --out compared
python -m jobs.compare 0a1b...e9 5c2d...f7 --tracking-uri http://127.0.0.1:5000
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from cacs_ray.command import add_tracking_uri, job_parser, run_job
from cacs_ray.recipes.compare import compare


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, and the paired differences as one line of JSON."""
    parser = job_parser(__doc__, "jobs.compare")
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="id or name in MLflow of a cycle, sweep, study or live run; the first one "
        "is what the others are compared with",
    )
    parser.add_argument("--out", metavar="DIR", help="compare.html and compare.json")
    add_tracking_uri(parser)
    return run_job(parser, _compare, argv)


def _compare(args: argparse.Namespace) -> Mapping[str, object]:
    return compare(args.runs, args.tracking_uri, args.out)


if __name__ == "__main__":
    sys.exit(main())
