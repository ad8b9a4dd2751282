r"""Learn from impression logs: checks, features, models, a bundle and its report.

python -m jobs.cycle --logs market --out run --recipe small \
    --set student.temperature=2 training.num_workers=2
python -m jobs.cycle --logs market --out run --recipe small --until teacher
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
from cacs_ray.recipes.config import RECIPES, run_config
from cacs_ray.recipes.cycle import run_cycle
from cacs_ray.recipes.stages import LAST_STAGE, STAGES


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run the stages that are not done yet, print where things are."""
    parser = job_parser(__doc__, "jobs.cycle")
    add_path(parser, "--logs", "dataset directory, with its dataset.yaml")
    add_path(parser, "--out", "run directory; the same one resumes a run")
    parser.add_argument(
        "--recipe",
        choices=list(RECIPES),
        default="small",
        help="every number of the run, for logs of about 20 k, 50 k, 500 k, 10 M rows",
    )
    parser.add_argument(
        "--until",
        choices=list(STAGES),
        default=LAST_STAGE,
        help="last stage to run; earlier ones that are done are reused",
    )
    parser.add_argument(
        "--warm-start",
        metavar="BUNDLE",
        help="go on from the models of this bundle, which may be the one in --out",
    )
    add_changes(parser, "teacher.loop.num_epochs=2")
    add_tracking_uri(parser)
    return run_job(parser, cycle, argv)


def cycle(args: argparse.Namespace) -> dict[str, object]:
    """Run the cycle that the options describe."""
    config = run_config(args.recipe).override(parse_changes(args.set))
    names = ("recipe", "until", "warm_start", "tracking_uri")
    return run_cycle(args.logs, args.out, config, **{n: vars(args)[n] for n in names})


if __name__ == "__main__":
    sys.exit(main())
