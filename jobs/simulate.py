r"""Write a synthetic ad market: a log in the contract's form, its truth kept apart.

python -m jobs.simulate --out market --recipe small --seed 1 \
    --set traffic.num_impressions=200000
"""

import argparse
import sys
from collections.abc import Sequence

from cacs_ray.command import add_changes, add_path, job_parser, run_job
from cacs_ray.config import parse_changes
from cacs_ray.simulation.export import write_market
from cacs_ray.simulation.pictures import SHIPPED_PICTURES
from cacs_ray.simulation.recipes import RECIPES, market_recipe


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, write the market, print its sizes as one line of JSON."""
    parser = job_parser(__doc__, "jobs.simulate")
    add_path(parser, "--out", "dataset directory to make")
    parser.add_argument(
        "--recipe",
        choices=list(RECIPES),
        default="small",
        help="size of the market; pictures: a small one with rendered ad images",
    )
    parser.add_argument("--seed", type=int, default=0, help="equal seeds, equal rows")
    parser.add_argument(
        "--logging",
        choices=("uniform", "epsilon_greedy"),
        help="how the creatives of the log were chosen; by default as in the recipe",
    )
    parser.add_argument(
        "--pictures",
        metavar="DIR",
        help="product photos with pictures.json, for the recipe pictures; by default "
        "those that come along",
    )
    add_changes(parser, "traffic.num_impressions=200000")
    return run_job(parser, simulate, argv)


def simulate(args: argparse.Namespace) -> dict[str, object]:
    """Write the market that the options describe."""
    changes = parse_changes(args.set)
    if args.logging:
        changes["logging.policy"] = args.logging
    recipe = market_recipe(args.recipe).override(changes)
    return write_market(
        recipe, args.out, seed=args.seed, pictures=args.pictures or SHIPPED_PICTURES
    )


if __name__ == "__main__":
    sys.exit(main())
