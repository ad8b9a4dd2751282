"""Value a policy from another policy's log, beside what it really earned.

python -m jobs.import_public open_bandit --src DIR --out bandit
python -m jobs.off_policy --logs bandit/random --on-policy-logs bandit/bts --out valued
"""

import argparse
import sys
from collections.abc import Sequence

from cacs_ray.command import add_path, job_parser, run_job
from cacs_ray.recipes.off_policy import value_off_policy


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, estimate, print the estimates as one line of JSON."""
    parser = job_parser(__doc__, "jobs.off_policy")
    add_path(parser, "--logs", "dataset with true propensities to value from")
    add_path(parser, "--on-policy-logs", "dataset logged by the valued policy")
    add_path(parser, "--out", "directory of the report")
    return run_job(parser, value, argv)


def value(args: argparse.Namespace) -> dict[str, object]:
    """Value the policy that the options name."""
    return value_off_policy(args.logs, args.on_policy_logs, args.out)


if __name__ == "__main__":
    sys.exit(main())
