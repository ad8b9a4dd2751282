r"""Compare speed and memory with peers on this machine.

python -m jobs.bench
python -m jobs.bench --only preprocessing --rows 500000 --repeats 1
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cacs_ray.benchmarks.bench import COMPARISONS as OFFLINE
from cacs_ray.benchmarks.bench import run_bench
from cacs_ray.benchmarks.operators import write_profile
from cacs_ray.benchmarks.outcome import Settings
from cacs_ray.command import job_parser, run_job
from cacs_ray.promises.cost import knobs, service

COMPARISONS = {**OFFLINE, "service": service, "knobs": knobs}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, compare, print what was missed as one line of JSON."""
    parser = job_parser(__doc__, "jobs.bench")
    parser.add_argument("--out", default="out/bench", metavar="DIR", help="written to")
    parser.add_argument(
        "--only",
        default=",".join([*OFFLINE, "service"]),
        metavar="NAMES",
        help="comparisons, parted by commas",
    )
    parser.add_argument(
        "--rows", type=int, default=5_000_000, help="impressions of the preprocessing"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="pairs of each comparison"
    )
    parser.add_argument("--bundle", type=Path, help="what the service is timed with")
    parser.add_argument(
        "--write-results", action="store_true", help="put it into docs/results.md"
    )
    parser.add_argument(
        "--profile", action="store_true", help="write the operators of a step as well"
    )
    return run_job(parser, bench, argv)


def bench(args: argparse.Namespace) -> dict[str, object]:
    """Run the comparisons that the options name."""
    out = Path(args.out).absolute()
    settings = Settings(out, args.rows, args.repeats, args.bundle)
    results = Path("docs/results.md") if args.write_results else None
    if args.profile:
        write_profile(settings.out)
    names = args.only.split(",")
    return run_bench(settings, names, comparisons=COMPARISONS, results=results)


if __name__ == "__main__":
    sys.exit(main())
