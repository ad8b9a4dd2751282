"""Judge a bundle on a log: report.json and report.html.

python -m jobs.evaluate --bundle run/bundle --logs market --out judged
"""

import argparse
import sys
from collections.abc import Sequence

from cacs_ray.command import add_path, job_parser, run_job
from cacs_ray.recipes.evaluate import evaluate_bundle


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, evaluate, print where the report is and its headline figures."""
    parser = job_parser(__doc__, "jobs.evaluate")
    add_path(parser, "--bundle", "bundle: `bundle/` in the --out of jobs.cycle")
    add_path(parser, "--logs", "dataset directory, with its dataset.yaml")
    add_path(parser, "--out", "directory of the report")
    return run_job(parser, evaluate, argv)


def evaluate(args: argparse.Namespace) -> dict[str, object]:
    """Evaluate the bundle that the options name."""
    return evaluate_bundle(args.bundle, args.logs, args.out)


if __name__ == "__main__":
    sys.exit(main())
