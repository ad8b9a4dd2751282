r"""Run the ablations of the method over seeds, on markets and on a log of your own.

python -m jobs.study --recipe small --out study
python -m jobs.study --recipe smoke --out study --seeds 0 1 --variants no_dropout
python -m jobs.study --sources logs --logs upworthy --out study
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
from cacs_ray.recipes.config import RECIPES
from cacs_ray.study.plan import SOURCES, StudyConfig
from cacs_ray.study.run import run_study


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run what is missing, print the headline as one line of JSON."""
    parser = job_parser(__doc__, "jobs.study")
    add_path(parser, "--out", "study directory; the same one resumes a study")
    parser.add_argument("--recipe", choices=list(RECIPES), default="small")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES[:2])
    parser.add_argument("--variants", nargs="+", default=[], help="by default all")
    parser.add_argument("--logs", metavar="DIR", help="dataset of the source logs")
    parser.add_argument(
        "--coverage", type=int, default=0, metavar="RUNS", help="of off-policy values"
    )
    add_changes(parser, "features.text_encoder=hashed-ngrams")
    add_tracking_uri(parser)
    return run_job(parser, study, argv)


def study(args: argparse.Namespace) -> dict[str, object]:
    """Run the study that the options describe."""
    names = ("recipe", "seeds", "sources", "variants")
    config = StudyConfig.model_validate({name: vars(args)[name] for name in names})
    changes = parse_changes(args.set)
    names = ("out", "logs", "coverage", "tracking_uri")
    return run_study(config, changes, **{name: vars(args)[name] for name in names})


if __name__ == "__main__":
    sys.exit(main())
