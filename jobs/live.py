r"""Play the closed loop day by day on a market whose truth is known.

Serve, log, draw clicks, join, retrain by warm start, gate, promote: once for each arm,
from the same first release, with the oracle beside them.

python -m jobs.live --days 7 --out out/live
python -m jobs.live --days 5 --seeds 0 1 --arms greedy epsilon --out out/live
"""

import argparse
import sys
from collections.abc import Sequence

from cacs_ray.command import (
    add_changes,
    add_path,
    add_tracking_uri,
    job_parser,
    run_job,
)
from cacs_ray.config import parse_changes
from cacs_ray.live.plan import ARMS, DEFAULT_ARMS, LiveConfig
from cacs_ray.live.run import run_live
from cacs_ray.recipes.config import RECIPES


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, play what is missing, print the headline as one line of JSON."""
    parser = job_parser(__doc__, "jobs.live")
    add_path(parser, "--out", "directory of the loops; the same one goes on with them")
    parser.add_argument("--days", type=int, default=7, help="days after the first log")
    parser.add_argument("--recipe", choices=list(RECIPES), default="live")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=DEFAULT_ARMS)
    parser.add_argument(
        "--set-market", nargs="+", default=[], metavar="KEY=VALUE", help="of the market"
    )
    add_changes(parser, "teacher.loop.num_epochs=1")
    add_tracking_uri(parser)
    return run_job(parser, live, argv)


def live(args: argparse.Namespace) -> dict[str, object]:
    """Play the loops that the options describe."""
    names = ("recipe", "days", "seeds", "arms")
    return run_live(
        LiveConfig.model_validate({name: vars(args)[name] for name in names}),
        out=args.out,
        changes=parse_changes(args.set),
        market_changes=parse_changes(args.set_market),
        tracking_uri=args.tracking_uri,
    )


if __name__ == "__main__":
    sys.exit(main())
