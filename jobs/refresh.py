r"""Give a bundle the creatives and ads of today, without training.

python -m jobs.refresh --bundle run/bundle --logs DATASET --out refreshed
"""

import argparse
import sys
from collections.abc import Sequence

from cacs_ray.command import add_path, job_parser, run_job
from cacs_ray.recipes.refresh import refresh_bundle


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, encode the creatives, print the new bundle as one line of JSON."""
    parser = job_parser(__doc__, "jobs.refresh")
    add_path(parser, "--bundle", "bundle whose models are kept")
    add_path(parser, "--logs", "dataset directory with today's creatives and ads")
    add_path(parser, "--out", "gets bundle/ and rejects/")
    return run_job(parser, refresh, argv)


def refresh(args: argparse.Namespace) -> dict[str, object]:
    """Write the bundle that the options describe."""
    return refresh_bundle(args.bundle, args.logs, args.out)


if __name__ == "__main__":
    sys.exit(main())
