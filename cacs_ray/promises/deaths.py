"""Promises about replicas that die: clients hardly notice, decisions are kept."""

import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

import polars as pl

from cacs_ray.promises.arrivals import poisson_arrivals
from cacs_ray.promises.bench import Bench
from cacs_ray.promises.fault_proxy import Fault, fault_proxy
from cacs_ray.promises.judges import OK, judge_log, judge_tries
from cacs_ray.promises.load import LoadLimits, run_load
from cacs_ray.promises.processes import Actor, killing
from cacs_ray.promises.service import NOMINAL_SHARE, Service, keep, serving
from cacs_ray.promises.verdict import Outcome, Verdict
from cacs_ray.schema import Column

_KILL_EVERY_S: Final = 10.0
_NUM_REPLICAS: Final = 2
_RETRY_S: Final = 1.0
"""What the service asks for in Retry-After."""
_FLUSHED_S: Final = 6.0
"""Decisions wait two seconds for the disk; a busy machine takes longer."""


def replica_death(bench: Bench) -> Outcome:
    """A random replica or proxy is killed every ten seconds.

    Every deployment has two replicas: one that is alone cannot be missed. The load is
    60 % of what is left while one of them is missed, as whoever plans for a death
    plans for it.
    """
    with serving(bench.plan, "deaths", num_replicas=_NUM_REPLICAS) as service:
        return _killed(bench, service)


def _killed(bench: Bench, service: Service) -> Outcome:
    plan, num_actors = bench.plan, len(service.actors())
    left = (_NUM_REPLICAS - 1) / _NUM_REPLICAS
    rate = NOMINAL_SHARE * left * service.capacity()
    seconds = plan.seconds(300, least=2.5 * _KILL_EVERY_S)
    limits = LoadLimits(name=bench.name("death"), num_retries=1, retry_pause_s=_RETRY_S)
    with killing(service.actors, _KILL_EVERY_S) as killed:
        arrivals = poisson_arrivals(rate, seconds, seed=4)
        shots = run_load(service.target(), arrivals, limits)
    keep(plan, "replica-death", shots)
    again_s = service.wait_until_whole(num_actors)
    fault = Fault(share=0.05, is_cut=True)
    with fault_proxy(service.graph.url, fault) as spoilt:
        control = run_load(
            service.target(spoilt),
            poisson_arrivals(rate, max(seconds / 10, 200 / rate), seed=5),
            replace(limits, name=bench.name("death-control")),
        )
    return Outcome(
        "replica death",
        f"{rate:.1f}/s for {seconds:.0f} s, {_NUM_REPLICAS} replicas each, {killed} by "
        f"SIGKILL every {_KILL_EVERY_S:g} s, retry after {_RETRY_S:g} s, whole again "
        f"after {again_s:.1f} s; {service.setting}",
        tuple(judge_tries(shots, str(killed))),
        tuple(judge_tries(control, "")),
        "a proxy that cuts 5 % of the connections",
    )


def decision_log(bench: Bench) -> Outcome:
    """Ids asked = ids logged + counted drops, though a replica ends meanwhile.

    What the ended replica dropped at last it cannot tell: only what the living one
    counts, and what the ended one had left to be told, is taken off.
    """
    service, plan = bench.plain(), bench.plan
    rate, seconds = NOMINAL_SHARE * service.capacity(), plan.seconds(120, least=10)
    undisturbed = _logged_run(service, bench, rate, seconds, None)
    ended = _logged_run(service, bench, rate, seconds, signal.SIGTERM)
    killed = _logged_run(service, bench, rate, seconds, signal.SIGKILL)
    return Outcome(
        "decision log",
        f"{rate:.1f}/s for {seconds:.0f} s each: undisturbed, the gateway's replica "
        f"ended by SIGTERM, and by SIGKILL; {service.setting}",
        (undisturbed, ended),
        (killed,),
        "the gateway's replica killed before it can write",
    )


def _logged_run(
    service: Service,
    bench: Bench,
    rate: float,
    seconds: float,
    how: signal.Signals | None,
) -> Verdict:
    """Ask while the gateway's replica is ended once, then read the log."""
    kind = how.name if how else "undisturbed"
    num_actors, name = len(service.actors()), bench.name(f"log-{kind}")

    def gateways() -> list[Actor]:
        return [a for a in service.actors() if how and a.name == "Gateway"]

    way = how or signal.SIGTERM
    with killing(gateways, seconds / 2, how=way, most=1) as ended:
        shots = run_load(
            service.target(),
            poisson_arrivals(rate, seconds, seed=6),
            LoadLimits(name=name),
        )
    keep(bench.plan, f"decision-log-{kind}", shots)
    service.wait_until_whole(num_actors)
    time.sleep(_FLUSHED_S)
    answered = shots.filter(pl.col("status") == OK)["shot_id"].to_list()
    return judge_log(
        kind,
        answered,
        logged_rows(service.graph.decision_log, name),
        num_ads=service.bodies.num_ads,
        dropped=round(service.counter("cacs_decisions_dropped_total")),
        note=f"{ended}, {shots.height - len(answered)} of {shots.height} not answered",
    )


def logged_rows(directory: Path, begins: str) -> dict[str, int]:
    """Return the rows of a decision log by request id, of ids that begin so."""
    files = sorted(directory.glob("*.parquet"))
    counts: Counter[str] = Counter()
    for file in files:
        ids = pl.read_parquet(file, columns=[Column.REQUEST_ID])[Column.REQUEST_ID]
        counts.update(ids.filter(ids.str.starts_with(begins)).to_list())
    return dict(counts)
