"""Promises of a service under load: it holds, it sheds, it forgets who left."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import polars as pl

from cacs_ray.promises.arrivals import constant_arrivals, poisson_arrivals
from cacs_ray.promises.bench import Bench
from cacs_ray.promises.fault_proxy import Fault, fault_proxy
from cacs_ray.promises.judges import (
    judge_accepted,
    judge_in_flight,
    judge_no_error,
    judge_recovery,
    judge_refused,
)
from cacs_ray.promises.load import HUNG_UP, LoadLimits, run_load
from cacs_ray.promises.service import NOMINAL_SHARE, Service, keep, wait_until
from cacs_ray.promises.verdict import Outcome

_OVERLOAD: Final = 3.0
_GATHERED_S: Final = 30.0
"""Ray tells its metrics every few seconds."""


def load_held(bench: Bench) -> Outcome:
    """Ten minutes at 60 % of the capacity without an error."""
    service, plan = bench.plain(), bench.plan
    capacity = service.capacity()
    rate, seconds = NOMINAL_SHARE * capacity, plan.seconds(600)
    shots = run_load(
        service.target(),
        poisson_arrivals(rate, seconds, seed=0),
        LoadLimits(name=bench.name("load")),
    )
    keep(plan, "load", shots)
    with fault_proxy(service.graph.url, Fault(share=0.02, status=500)) as spoilt:
        control = run_load(
            service.target(spoilt),
            poisson_arrivals(rate, max(seconds / 10, 100 / rate), seed=1),
            LoadLimits(name=bench.name("load-control")),
        )
    return Outcome(
        "load held",
        f"{rate:.1f}/s (60 % of {capacity:.1f}/s) for {seconds:.0f} s, "
        f"{service.setting}",
        (judge_no_error("load", shots),),
        (judge_no_error("load", control),),
        "a proxy that answers 2 % with 500",
    )


def overload(bench: Bench) -> Outcome:
    """Three times the capacity: what is accepted stays quick, the rest is told so."""
    service, plan = bench.plain(), bench.plan
    capacity = service.capacity()
    nominal_s, step_s = plan.seconds(60), plan.seconds(60)
    nominal = _run(service, bench, "nominal", NOMINAL_SHARE * capacity, nominal_s)
    nominal_p99 = keep(plan, "overload-nominal", nominal).quantiles_ms["p99"]
    step, after = _step(service, bench, capacity, step_s)
    fault = Fault(share=1.0, hides_retry_after=True, delay_s=0.1)
    with fault_proxy(service.graph.url, fault) as spoilt:
        control = _run(
            service, bench, "control", _OVERLOAD * capacity, max(step_s / 10, 3), spoilt
        )
    return Outcome(
        "overload",
        f"{_OVERLOAD:g} x capacity ({capacity:.1f}/s) for {step_s:.0f} s; nominal p99 "
        f"{nominal_p99:.1f} ms over {nominal_s:.0f} s; {service.setting}",
        (
            judge_accepted(step, nominal_p99),
            judge_refused(step),
            judge_recovery(after, nominal_p99),
        ),
        (judge_accepted(control, nominal_p99), judge_refused(control)),
        "a proxy that hides Retry-After and is 100 ms late",
    )


def cancellation(bench: Bench) -> Outcome:
    """A third of the clients hang up early, and nothing is left of them."""
    service, plan = bench.plain(), bench.plan
    rate, seconds = NOMINAL_SHARE * service.capacity(), plan.seconds(120)
    left = run_load(
        service.target(),
        poisson_arrivals(rate, seconds, seed=3),
        LoadLimits(name=bench.name("left"), hang_up_share=0.3, seed=3),
    )
    keep(plan, "cancellation", left)
    count = plan.count(1000, least=50)
    after = run_load(
        service.target(),
        constant_arrivals(rate, count / rate),
        LoadLimits(name=bench.name("after-left")),
    )
    keep(plan, "cancellation-after", after)
    in_flight = _settled(service)
    busy = _while_busy(service, bench)
    num_left = left.filter(pl.col("status") == HUNG_UP).height
    return Outcome(
        "cancellation",
        f"{num_left:,} of {left.height:,} clients hung up after 5 ms, {seconds:.0f} s "
        f"at {rate:.1f}/s, {service.setting}",
        (
            judge_no_error("the next requests", after),
            judge_in_flight(in_flight),
        ),
        (judge_in_flight(busy),),
        "looked at while clients still wait",
    )


def _step(
    service: Service, bench: Bench, capacity: float, step_s: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Overload, then ordinary load at once: what the first left behind, it meets."""
    after_s = bench.plan.seconds(30, least=12)
    high = poisson_arrivals(_OVERLOAD * capacity, step_s, seed=2)
    low = poisson_arrivals(NOMINAL_SHARE * capacity, after_s, seed=3)
    shots = run_load(
        service.target(),
        np.concatenate([high, step_s + low]),
        LoadLimits(name=bench.name("step")),
    )
    keep(bench.plan, "overload-step", shots)
    is_after = pl.col("scheduled_s") >= step_s
    after = shots.filter(is_after).with_columns(pl.col("scheduled_s") - step_s)
    return shots.filter(~is_after), after


def _run(
    service: Service,
    bench: Bench,
    name: str,
    rate: float,
    seconds: float,
    base: str | None = None,
) -> pl.DataFrame:
    return run_load(
        service.target(base),
        poisson_arrivals(rate, seconds, seed=2),
        LoadLimits(name=bench.name(name)),
    )


def _settled(service: Service) -> dict[str, float]:
    """Return what is in work once nobody asks, or what still is after a while."""
    seen: dict[str, float] = {}

    def is_idle() -> bool:
        seen.clear()
        seen.update(service.in_flight())
        return bool(seen) and not any(seen.values())

    # What was gathered before the last client left says nothing.
    time.sleep(_GATHERED_S / 2)
    try:
        wait_until(is_idle, _GATHERED_S, "requests are in work")
    except TimeoutError:
        return dict(seen)
    return dict(seen)


def _while_busy(service: Service, bench: Bench) -> dict[str, float]:
    """Return the most that is in work while the service has more than it can do."""
    most: dict[str, float] = {}
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(service.capacity, _GATHERED_S / max(bench.plan.scale, 0.05))
        while not load.done():
            now = service.in_flight()
            most = max(most, now, key=lambda one: sum(one.values()))
            time.sleep(1.0)
    return most
