"""The whole walk on this machine: a market, a run, a live service, a table.

make demo              everything stays up until Ctrl-C
make demo ARGS=--exit  stops by itself
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cacs_ray.command import job_parser, run_job
from cacs_ray.recipes.config import RECIPES
from cacs_ray.recipes.demo import DemoOptions, run_demo


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, walk, print addresses and figures as one line of JSON."""
    parser = job_parser(__doc__, "jobs.demo")
    parser.add_argument(
        "--out", default="out/demo", metavar="DIR", help="directory of the demo"
    )
    parser.add_argument(
        "--recipe",
        choices=list(RECIPES),
        default="small",
        help="size of the market and of the run",
    )
    parser.add_argument(
        "--exit", action="store_true", help="stop after the table instead of waiting"
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="of the service; 0 for any free one"
    )
    parser.add_argument(
        "--mlflow-port", type=int, default=5000, help="of MLflow; 0 for any free one"
    )
    return run_job(parser, demo, argv)


def demo(args: argparse.Namespace) -> dict[str, object]:
    """Run the demonstration that the options describe."""
    options = DemoOptions(
        out=Path(args.out).absolute(),
        recipe=args.recipe,
        exits=args.exit,
        serve_port=args.port,
        mlflow_port=args.mlflow_port,
    )
    return run_demo(options)


if __name__ == "__main__":
    sys.exit(main())
