"""Decide a table of requests with a bundle: which creative, which ad, which slot.

ray job submit --working-dir . -- python -m jobs.decide --bundle DIR \
    --requests requests.parquet --out DIR
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from cacs_ray.answers.local import decide_file
from cacs_ray.command import run_job
from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.schema import POLICIES


def main(argv: Sequence[str] | None = None) -> int:
    """Write `decisions/` and `rejects/` into the output directory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True, help="directory of the bundle")
    parser.add_argument(
        "--requests", required=True, help="a file or a directory, a row per candidate"
    )
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--policy", choices=POLICIES, default="cacs")
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
