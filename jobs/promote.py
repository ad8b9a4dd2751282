"""Put a bundle through the gate and make it the champion, or go back to the last one.

python -m jobs.promote --bundle run/bundle --dry-run
python -m jobs.promote --bundle run/bundle --decisions log/decisions --clicks log/clicks
python -m jobs.promote --bundle run/bundle --rollback
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from cacs_ray.command import add_path, add_tracking_uri, job_parser, run_job
from cacs_ray.errors import InputError
from cacs_ray.manifest import verify_bundle
from cacs_ray.recipes.promote import Evidence, promote_bundle, roll_back
from cacs_ray.registry import model_name

_EVIDENCE = {
    "--logs": "dataset on which champion and challenger are both judged anew; by "
    "default the reports of their cycles are compared",
    "--decisions": "the champion's decision log: would this release have won?",
    "--clicks": "the clicks on those decisions",
}
_SWITCHES = {
    "--dry-run": "judge, register nothing",
    "--rollback": "make the champion before the present one the champion again",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the verdict; a refused bundle ends with exit code 1."""
    parser = job_parser(__doc__, "jobs.promote")
    add_path(parser, "--bundle", "bundle: `bundle/` in the --out of jobs.cycle")
    for option, what in _EVIDENCE.items():
        parser.add_argument(option, metavar="DIR", help=what)
    for option, what in _SWITCHES.items():
        parser.add_argument(option, action="store_true", help=what)
    add_tracking_uri(parser)
    return run_job(parser, _promote, argv)


def _promote(args: argparse.Namespace) -> Mapping[str, object]:
    uri = args.tracking_uri
    if args.rollback:
        return {
            "out": args.bundle,
            **roll_back(model_name(verify_bundle(args.bundle)), uri),
        }
    evidence = Evidence(args.logs, args.decisions, args.clicks)
    verdict = promote_bundle(
        args.bundle, tracking_uri=uri, evidence=evidence, is_dry_run=args.dry_run
    )
    if not (verdict["passed"] or args.dry_run):
        raise InputError(verdict["reason"], source=args.bundle, rule="gate")
    return {"out": args.bundle, **verdict}


if __name__ == "__main__":
    sys.exit(main())
