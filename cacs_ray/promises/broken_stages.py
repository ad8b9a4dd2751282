"""Promises about what goes wrong inside: stages that fail, memory that is kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import polars as pl

from cacs_ray.data.files import write_table
from cacs_ray.promises.arrivals import constant_arrivals
from cacs_ray.promises.bench import Bench
from cacs_ray.promises.bodies import bundle_bodies
from cacs_ray.promises.judges import judge_fallback, judge_memory
from cacs_ray.promises.load import LoadLimits, measure_capacity, run_load
from cacs_ray.promises.service import GraphName, Plan, Service, keep
from cacs_ray.promises.verdict import Outcome, Verdict
from cacs_ray.repeating import repeating

STAGES: Final = ("selector", "ranker")
FAULTS: Final = ("error", "nan", "slow", "exit")
"""Raises, gives no numbers, sleeps, ends its process at every request."""
_DEADLINE_MS: Final = 1000
SHORT_MS: Final = 50
"""What requests have that bring no deadline, as the service is shipped; slow stages
are shown with this too."""
ALLOWANCE_MS: Final = 25
"""Beside the short one: there and back, and a client that shares two processors with
the service."""
_RATE: Final = 5.0
"""Low: what is shown is the answer, not how much of it there is."""
_NUM_SAMPLES: Final = 200
_SMALL_ADS: Final = 3
_PATIENCE: Final = 4.0
"""Times what the requests should take, after which they end unsent."""


def stage_fails(bench: Bench) -> Outcome:
    """Selector or ranker broken in every way of `FAULTS`: in time, and flagged.

    A stage that is slow is asked with the service's own deadline too. The control
    judges by it what had more time: those answers must be found late.
    """
    service, plan = bench.faulty(), bench.plan
    num_actors = len(service.actors())
    seconds = plan.seconds(30, least=4)
    verdicts, control = [], []
    for stage in STAGES:
        for fault in faults_of(stage, plan.graph):
            check = f"{stage} {fault}"
            service.set_fault(**{stage: fault})
            shots = _asked(service, bench, check, seconds)
            verdicts.append(judge_fallback(check, shots, stage, _DEADLINE_MS))
            if fault == "slow":
                control.append(_in_short(f"{check}, {_DEADLINE_MS} ms", shots, stage))
                check = f"{check}, {SHORT_MS} ms"
                shots = _asked(service, bench, check, seconds, SHORT_MS)
                verdicts.append(_in_short(check, shots, stage))
            service.set_fault()
            service.wait_until_whole(num_actors)
    shots = _asked(service, bench, "no fault", seconds)
    control.append(judge_fallback("no fault", shots, "selector", _DEADLINE_MS))
    return Outcome(
        "a stage fails",
        f"{_RATE:g}/s for {seconds:.0f} s each, {_DEADLINE_MS} ms to answer in unless "
        f"said otherwise, {service.setting}",
        tuple(verdicts),
        tuple(control),
        f"answers that had {_DEADLINE_MS} ms, judged by {SHORT_MS}; and no fault at "
        "all: no answer is flagged",
        is_each_found=True,
    )


def faults_of(stage: str, graph: GraphName) -> list[str]:
    """Return what a stage is told to do; one in the gateway cannot end by itself."""
    is_apart = graph == "composed" or (
        graph == "selector_in_gateway" and stage == "ranker"
    )
    return [one for one in FAULTS if is_apart or one != "exit"]


def leak(bench: Bench) -> Outcome:
    """100,000 requests leave every actor as large as it was when warm."""
    plan = bench.plan
    plain, count = bench.plain(), plan.count(100_000, least=500)
    verdict = _weighed(_small(plain), bench, "leak", count)
    faulty = bench.faulty()
    faulty.set_fault(selector="leak")
    control = _weighed(_small(faulty), bench, "leak-control", max(count // 50, 500))
    faulty.set_fault()
    return Outcome(
        "leak",
        f"{count:,} requests, {_small(plain).setting}",
        (verdict,),
        (control,),
        "a selector that keeps 256 KiB of every request",
    )


def _asked(
    service: Service,
    bench: Bench,
    check: str,
    seconds: float,
    deadline_ms: int = _DEADLINE_MS,
) -> pl.DataFrame:
    """Send requests that give a deadline; keep and return what came back."""
    name = check.replace(", ", "-").replace(" ", "-")
    shots = run_load(
        service.target(x_request_timeout_ms=f"{deadline_ms}"),
        constant_arrivals(_RATE, seconds),
        LoadLimits(name=bench.name(name)),
    )
    keep(bench.plan, f"stage-{name}", shots)
    return shots


def _in_short(check: str, shots: pl.DataFrame, stage: str) -> Verdict:
    return judge_fallback(check, shots, stage, SHORT_MS, ALLOWANCE_MS)


def _small(service: Service) -> Service:
    """Ask about few ads: what is kept of a request does not depend on its size."""
    return service.with_bodies(bundle_bodies(service.plan.bundle, num_ads=_SMALL_ADS))


def _weighed(service: Service, bench: Bench, name: str, count: int) -> Verdict:
    """Send requests as fast as they are answered, and weigh the actors meanwhile."""
    rate, _ = measure_capacity(service.target(), duration_s=3.0, name=bench.name("w"))
    seconds = count / max(rate, 1.0)
    with _weighing(service, seconds / _NUM_SAMPLES) as series:
        _, shots = measure_capacity(
            service.target(),
            duration_s=_PATIENCE * seconds,
            most=count,
            name=bench.name(name),
        )
    keep_series(bench.plan, name, series)
    return judge_memory(series, shots.height)


@contextmanager
def _weighing(service: Service, every_s: float) -> Iterator[dict[str, list[float]]]:
    """Weigh every actor at even distances while the body runs."""
    actors = {f"{a.name} {a.pid}": a for a in service.actors()}
    series: dict[str, list[float]] = {name: [] for name in actors}

    def look() -> None:
        for name, actor in actors.items():
            series[name].append(float(actor.resident_bytes()))

    with repeating(look, every_s, "weighing"):
        yield series


def keep_series(plan: Plan, name: str, series: dict[str, list[float]]) -> None:
    """Keep the memory of every actor over the run."""
    raw = plan.out / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    write_table(raw / f"{name}-memory.parquet", pl.DataFrame(series).to_arrow())
