"""Promise that selection is nearly free: beside ranking alone, same graph, same run."""

from typing import Final

import polars as pl

from cacs_ray.promises.bench import Bench
from cacs_ray.promises.bodies import JsonBodies, bundle_bodies
from cacs_ray.promises.judges import judge_ratio
from cacs_ray.promises.latency import PairedLatency, paired_latency
from cacs_ray.promises.load import LoadLimits, Target, measure_capacity
from cacs_ray.promises.service import NEVER_CROWDED, keep, serving
from cacs_ray.promises.verdict import Outcome, Verdict

SHAPES: Final = ((50, 8), (200, 10))
"""Ads x creatives of a request."""
QUANTILES: Final = ("p50", "p99")
QUIET_SHARE: Final = 0.3
"""Of the capacity. A third of the requests or more wait for another then, which
multiplies what selection costs, most of all in the p99 (docs/log.md)."""
BLOCK_S: Final = 10.0
"""Of each order: some hundreds of requests, whose p99 is the third slowest or so. Many
such blocks tell more than half as many of twice the length: with sides drawn by lot,
the median of their ratios of p99 deviates from 1 by a quarter to a third less."""
CLOSED_LOOP_S: Final = 5.0
_NUM_BLOCKS: Final = 32
_UNHURRIED: Final = {"x-request-timeout-ms": "5000"}
"""Nothing is replaced by a fallback: what is timed is the whole work."""


def selection_nearly_free(bench: Bench) -> Outcome:
    """The graph with selection takes hardly longer than when it only ranks."""
    plan = bench.plan
    num_blocks = plan.count(_NUM_BLOCKS, least=3)
    verdicts: list[Verdict] = []
    with serving(plan, "selection", args=NEVER_CROWDED) as plain:
        for num_ads, num_creatives in SHAPES:
            bodies = bundle_bodies(
                plan.bundle, num_ads=num_ads, num_creatives=num_creatives
            )
            name = bench.name(f"selection-{num_ads}")
            paired, raw, _ = compare_with_ranking(
                plain.graph.url, bodies, num_blocks=num_blocks, name=name
            )
            keep(plan, name, raw)
            verdicts += _judged(bodies.shape, paired)
    faulty = bench.faulty()
    faulty.set_fault(selector="delay")
    slowed, _, _ = compare_with_ranking(
        faulty.graph.url, faulty.bodies, num_blocks=3, name=bench.name("selection-slow")
    )
    faulty.set_fault()
    return Outcome(
        "selection is nearly free",
        f"order cacs against rank_only in turns of a second, {num_blocks} blocks of "
        f"{BLOCK_S:g} s each at {QUIET_SHARE:.0%} of the capacity, "
        f"{plan.setting}",
        tuple(verdicts),
        tuple(_judged("slowed", slowed)),
        "a selector that takes 5 ms longer",
    )


def compare_with_ranking(
    url: str, bodies: JsonBodies, *, num_blocks: int, name: str
) -> tuple[PairedLatency, pl.DataFrame, float]:
    """Time the same requests with selection first and with ranking alone.

    Args:
        url: of a service.
        bodies: what it is asked.
        num_blocks: pairs of blocks that count, >= 1.
        name: begins the request ids.

    Returns:
        Latencies (first: `cacs`, second: `rank_only`), all raw rows, and the answers
        a second that the service gives at most.
    """
    with_selection, without = (
        Target(f"{url}/v1/decide?order={order}", bodies, _UNHURRIED)
        for order in ("cacs", "rank_only")
    )
    capacity, _ = measure_capacity(
        with_selection, duration_s=CLOSED_LOOP_S, name=f"{name}-capacity"
    )
    paired, raw = paired_latency(
        with_selection,
        without,
        rate=QUIET_SHARE * capacity,
        block_s=BLOCK_S,
        num_blocks=num_blocks,
        limits=LoadLimits(name=name),
    )
    return paired, raw, capacity


def _judged(shape: str, paired: PairedLatency) -> list[Verdict]:
    return [
        judge_ratio(f"{quantile}, {shape}", paired, quantile) for quantile in QUANTILES
    ]
