r"""Decide a table of requests with a bundle: which creative, which ad, which slot.

python -m jobs.decide --bundle run/bundle --requests market/truth/requests.parquet \
    --out decisions --policy cacs --slots 3
ray job submit --working-dir . -- python -m jobs.decide --bundle DIR \
    --requests requests.parquet --out DIR
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from cacs_ray.answers.local import decide_file
from cacs_ray.command import add_path, job_parser, run_job
from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.schema import POLICIES


def main(argv: Sequence[str] | None = None) -> int:
    """Write `decisions/` and `rejects/` into the output directory."""
    parser = job_parser(__doc__, "jobs.decide")
    add_path(parser, "--bundle", "bundle: `bundle/` in the --out of jobs.cycle")
    parser.add_argument(
        "--requests",
        required=True,
        metavar="PATH",
        help="table with a row per candidate ad: a file or a directory",
    )
    add_path(
        parser,
        "--out",
        "gets decisions/ and rejects/; every candidate is a row of one of them",
    )
    parser.add_argument(
        "--policy",
        choices=POLICIES,
        default="cacs",
        help="how creatives are chosen, and before or after ranking",
    )
    parser.add_argument("--slots", type=int, default=1, help="places per request")
    parser.add_argument(
        "--epsilon", type=float, default=0.0, help="share of uniform choice, 0 to 1"
    )
    return run_job(parser, _decide, argv)


def _decide(args: argparse.Namespace) -> Mapping[str, object]:
    settings = DecisionSettings().override(
        {"policy": args.policy, "num_slots": args.slots, "epsilon": args.epsilon}
    )
    counts = decide_file(args.bundle, args.requests, args.out, settings)
    return {"out": args.out, **counts}


if __name__ == "__main__":
    sys.exit(main())
