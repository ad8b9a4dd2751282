r"""Compare the arms of a live test from its decision log and clicks.

python -m jobs.compare_arms --decisions DIR --clicks DIR --out out/arms
python -m jobs.compare_arms --decisions DIR --clicks DIR --out out/arms \
    --arms 3f2a/cacs 9c1e/cacs --shares 0.9 0.1
"""

import argparse
import sys
from collections.abc import Sequence

from cacs_ray.command import add_path, job_parser, run_job
from cacs_ray.evaluation.arms import ArmSettings
from cacs_ray.recipes.arms import report_arms

_SETTINGS = {
    "attribution_window_s": ("--window-s", "seconds in which a click counts"),
    "alpha": ("--alpha", "probability of a false alarm"),
    "look_s": ("--look-s", "seconds between looks"),
    "min_clicks": ("--min-clicks", "clicks of each arm before the first look"),
    "planned_clicks": ("--planned-clicks", "clicks at which to be narrowest"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, compare, print which arm is better as one line of JSON."""
    parser = job_parser(__doc__, "jobs.compare_arms")
    add_path(parser, "--decisions", "decision log: a file or a directory")
    add_path(parser, "--clicks", "clicks: a file or a directory")
    add_path(parser, "--out", "directory of the report")
    parser.add_argument(
        "--arms", nargs="+", metavar="RELEASE/POLICY", help="by default all"
    )
    parser.add_argument(
        "--shares",
        nargs="+",
        type=float,
        metavar="SHARE",
        help="of users, as configured",
    )
    for name, (option, what) in _SETTINGS.items():
        default = ArmSettings.model_fields[name].default
        parser.add_argument(option, dest=name, default=str(default), help=what)
    return run_job(parser, compare, argv)


def compare(args: argparse.Namespace) -> dict[str, object]:
    """Compare the arms that the options name."""
    settings = ArmSettings()
    for name, (option, _) in _SETTINGS.items():
        settings = settings.override({name: getattr(args, name)}, source=option)
    files = args.decisions, args.clicks, args.out
    return report_arms(*files, settings, arms=args.arms, shares=args.shares)


if __name__ == "__main__":
    sys.exit(main())
