"""Put a bundle through the gate and make it the champion, or go back to the last one.

python -m jobs.promote --bundle run/bundle --dry-run
python -m jobs.promote --bundle run/bundle --decisions log/decisions --clicks log/clicks
python -m jobs.promote --bundle run/bundle --logs later --set max_drift=0.1
python -m jobs.promote --model creative-selector-market --rollback
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from cacs_ray.command import add_changes, add_tracking_uri, job_parser, run_job
from cacs_ray.config import parse_changes
from cacs_ray.recipes.promote import Evidence, model_of, promote_or_refuse, roll_back

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
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--bundle", help="`bundle/` in the --out of jobs.cycle")
    which.add_argument("--model", help="registered model; enough for --rollback")
    for option, what in _EVIDENCE.items():
        parser.add_argument(option, metavar="DIR", help=what)
    for option, what in _SWITCHES.items():
        parser.add_argument(option, action="store_true", help=what)
    add_changes(parser, "max_drift=0.1", "thresholds")
    add_tracking_uri(parser)
    return run_job(parser, _promote, argv)


def _promote(args: argparse.Namespace) -> Mapping[str, object]:
    out, uri = args.bundle, args.tracking_uri
    if args.rollback:
        return {"out": out, **roll_back(args.model or model_of(out), uri)}
    verdict = promote_or_refuse(
        out,
        tracking_uri=uri,
        evidence=Evidence(args.logs, args.decisions, args.clicks),
        changes=parse_changes(args.set),
        is_dry_run=args.dry_run,
    )
    return {"out": out, **verdict}


if __name__ == "__main__":
    sys.exit(main())
