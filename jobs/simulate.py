"""Write a synthetic ad market: a log in the contract's form, its truth kept apart.

python -m jobs.simulate --out market --recipe small --seed 1 \
    --set traffic.num_impressions=200000
"""

import argparse
import sys
from collections.abc import Sequence

from cacs_ray.command import run_job
from cacs_ray.config import parse_changes
from cacs_ray.simulation.export import write_market
from cacs_ray.simulation.pictures import SHIPPED_PICTURES
from cacs_ray.simulation.recipes import RECIPES, market_recipe


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, write the market, print its sizes as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="directory to make")
    parser.add_argument("--recipe", default="small", help=f"one of {sorted(RECIPES)}")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds, equal rows")
    parser.add_argument(
        "--logging", choices=("uniform", "epsilon_greedy"), help="logging policy"
    )
    parser.add_argument(
        "--pictures",
        default=str(SHIPPED_PICTURES),
        help="product photos with pictures.json, for the recipe pictures",
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE"
    )
    return run_job(parser, simulate, argv)


def simulate(args: argparse.Namespace) -> dict[str, object]:
    """Write the market that the options describe."""
    changes = parse_changes(args.set)
    if args.logging:
        changes["logging.policy"] = args.logging
    recipe = market_recipe(args.recipe).override(changes)
    return write_market(recipe, args.out, seed=args.seed, pictures=args.pictures)


if __name__ == "__main__":
    sys.exit(main())
