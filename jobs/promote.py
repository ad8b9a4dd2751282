"""Put a bundle through the gate and make it the champion, or go back to the last one.

python -m jobs.promote --bundle run/bundle
python -m jobs.promote --bundle run/bundle --rollback
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from cacs_ray.command import add_path, add_tracking_uri, job_parser, run_job
from cacs_ray.errors import InputError
from cacs_ray.manifest import verify_bundle
from cacs_ray.recipes.promote import promote_bundle, roll_back
from cacs_ray.registry import model_name


def main(argv: Sequence[str] | None = None) -> int:
    """Print the verdict; a refused bundle ends with exit code 1."""
    parser = job_parser(__doc__, "jobs.promote")
    add_path(parser, "--bundle", "bundle: `bundle/` in the --out of jobs.cycle")
    parser.add_argument(
        "--logs",
        metavar="DIR",
        help="dataset on which champion and challenger are both judged anew; by "
        "default the reports of their cycles are compared",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="judge, register nothing"
    )
    parser.add_argument(
        "--rollback",
        action="store_true",
        help="make the champion before the present one the champion again",
    )
    add_tracking_uri(parser)
    return run_job(parser, _promote, argv)


def _promote(args: argparse.Namespace) -> Mapping[str, object]:
    if args.rollback:
        model = model_name(verify_bundle(args.bundle))
        return {"out": args.bundle, **roll_back(model, args.tracking_uri)}
    verdict = promote_bundle(
        args.bundle,
        tracking_uri=args.tracking_uri,
        logs=args.logs,
        is_dry_run=args.dry_run,
    )
    if not (verdict["passed"] or args.dry_run):
        raise InputError(verdict["reason"], source=args.bundle, rule="gate")
    return {"out": args.bundle, **verdict}


if __name__ == "__main__":
    sys.exit(main())
