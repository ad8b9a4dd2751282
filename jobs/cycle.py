"""The main job: from raw impression logs to a bundle with its report.

python -m jobs.cycle --logs market --out run --recipe small \
    --set student.distillation.temperature=2 training.num_workers=2
"""

import argparse
import sys
from collections.abc import Sequence

from cacs_ray.command import run_job
from cacs_ray.config import parse_changes
from cacs_ray.recipes.config import RECIPES, run_config
from cacs_ray.recipes.cycle import run_cycle


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run all stages that are not done yet, print where the bundle is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--logs", required=True, help="dataset directory, with its dataset.yaml"
    )
    parser.add_argument(
        "--out", required=True, help="run directory; the same one resumes a run"
    )
    parser.add_argument("--recipe", default="small", help=f"one of {sorted(RECIPES)}")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE"
    )
    parser.add_argument("--tracking-uri", help="MLflow; default mlruns/mlflow.db here")
    return run_job(parser, cycle, argv)


def cycle(args: argparse.Namespace) -> dict[str, object]:
    """Run the cycle that the options describe."""
    config = run_config(args.recipe).override(parse_changes(args.set))
    return run_cycle(args.logs, args.out, config, tracking_uri=args.tracking_uri)


if __name__ == "__main__":
    sys.exit(main())
