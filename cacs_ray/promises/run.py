"""All promises by name, and the run of some of them."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from cacs_ray.benchmarks.machine import machine
from cacs_ray.errors import InputError
from cacs_ray.promises.bench import Bench
from cacs_ray.promises.broken_stages import leak, stage_fails
from cacs_ray.promises.deaths import decision_log, replica_death
from cacs_ray.promises.machine_pace import machine_pace
from cacs_ray.promises.report import write_report
from cacs_ray.promises.selection import selection_nearly_free
from cacs_ray.promises.service import Plan
from cacs_ray.promises.survival import hostile
from cacs_ray.promises.swaps import swap
from cacs_ray.promises.under_load import cancellation, load_held, overload
from cacs_ray.promises.verdict import Outcome, lines

log = logging.getLogger(__name__)

Promise = Callable[[Bench], Outcome]
"""Checks one promise; a new one is a function and a line in `PROMISES`."""

PROMISES: Final[Mapping[str, Promise]] = {
    "selection": selection_nearly_free,
    "load": load_held,
    "overload": overload,
    "cancellation": cancellation,
    "leak": leak,
    "hostile": hostile,
    "log": decision_log,
    "stages": stage_fails,
    "death": replica_death,
    "swap": swap,
}
"""What `--only` may name, in an order in which none disturbs the next."""


def run_promises(plan: Plan, names: Sequence[str]) -> dict[str, Any]:
    """Check some promises one after the other and write what they say.

    Results are written after each, so that one that fails leaves those before it.

    Args:
        plan: what to serve, where to write, how much of the full counts.
        names: of `PROMISES`.

    Returns:
        For the last line of the job.

    Raises:
        InputError: a name is not known, or the scale is not positive.
    """
    unknown = sorted(set(names) - set(PROMISES))
    if unknown or not names:
        raise InputError(
            f"no promise {unknown}; known: {sorted(PROMISES)}",
            source="--only",
            rule="known_promise",
        )
    if not plan.scale > 0:
        raise InputError(
            f"{plan.scale:g}", source="--minutes-scale", rule="positive_scale"
        )
    plan.out.mkdir(parents=True, exist_ok=True)
    facts = machine()
    outcomes: list[Outcome] = []
    with Bench(plan) as bench:
        for name in (name for name in PROMISES if name in names):
            log.info("%s ...", name)
            started = time.monotonic()
            with machine_pace() as pace:
                outcome = PROMISES[name](bench)
            outcomes.append(
                replace(
                    outcome,
                    setting=f"{outcome.setting}; {pace}",
                    seconds=round(time.monotonic() - started, 1),
                )
            )
            for line in lines(outcomes[-1]):
                log.info("%s", line)
            write_report(plan.out, outcomes, facts, plan.scale)
    return {
        "out": str(plan.out),
        "promises": len(outcomes),
        "broken": [one.promise for one in outcomes if not one.is_kept],
        "control_not_caught": [o.promise for o in outcomes if not o.is_control_caught],
    }
