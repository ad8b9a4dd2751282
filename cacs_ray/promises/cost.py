"""What selection costs in the service, what Ray costs, and what each knob gives."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cacs_ray.benchmarks.market import market
from cacs_ray.benchmarks.outcome import (
    Outcome,
    Settings,
    alone,
    at_least,
    at_most,
    compared,
    interleave,
)
from cacs_ray.cluster import local_environment
from cacs_ray.local_server import LOOPBACK, free_port, wait_until_healthy
from cacs_ray.promises.bodies import JsonBodies, bundle_bodies
from cacs_ray.promises.judges import NEARLY_FREE
from cacs_ray.promises.load import Target, measure_capacity
from cacs_ray.promises.selection import (
    CLOSED_LOOP_S,
    QUANTILES,
    QUIET_SHARE,
    SHAPES,
    compare_with_ranking,
)
from cacs_ray.promises.service import NEVER_CROWDED
from cacs_ray.recipes.config import run_config
from cacs_ray.recipes.cycle import run_cycle
from cacs_ray.recipes.serving import serve_graph

_BUDGET: Final = {"budget_ms": 5000, "epsilon": 0.0, **NEVER_CROWDED}
"""Nothing is replaced by a fallback: what is timed is the whole work."""
_CLIENTS: Final = 8
"""Of a closed loop: enough that something always waits at every hop."""

_PLAIN: Final = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
}
_FAST: Final = {**_PLAIN, "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
_HAPROXY: Final = {"RAY_SERVE_ENABLE_HA_PROXY": "1"}
_FEW_METRICS: Final = {
    "RAY_SERVE_COLLECT_AUTOSCALING_METRICS_ON_HANDLE": "0",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "60000",
}
KNOBS: Final[Mapping[str, tuple[bool, Mapping[str, str]]]] = {
    "composed": (False, _PLAIN),
    "composed, throughput optimised": (False, _FAST),
    "composed, throughput optimised, HAProxy": (False, _FAST | _HAPROXY),
    "composed, the same, few metrics": (False, _FAST | _HAPROXY | _FEW_METRICS),
    "fused": (True, _PLAIN),
    "fused, throughput optimised": (True, _FAST),
    "fused, HAProxy": (True, _PLAIN | _HAPROXY),
    "fused, throughput optimised, HAProxy": (True, _FAST | _HAPROXY),
    "fused, the same, user code in a thread": (
        True,
        _FAST | _HAPROXY | {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "1"},
    ),
    "fused, the same, without uvloop": (
        True,
        _FAST | _HAPROXY | {"RAY_USE_UVLOOP": "0"},
    ),
    "fused, the same, 2 threads of torch": (
        True,
        _FAST | _HAPROXY | {"OMP_NUM_THREADS": "2"},
    ),
}
"""Name -> whether the graph is fused, and the variables of its processes."""
BEST: Final = "fused, throughput optimised, HAProxy"
APART: Final = "composed, throughput optimised, HAProxy"
"""The best of the graphs with a deployment for each stage."""


def service(settings: Settings) -> list[Outcome]:
    """Time the graph with selection against ranking alone, and against no Ray."""
    bundle = _bundle(settings)
    outcomes: list[Outcome] = []
    with _graph(settings, bundle, BEST) as url:
        for num_ads, num_creatives in SHAPES:
            bodies = bundle_bodies(bundle, num_ads=num_ads, num_creatives=num_creatives)
            outcomes += _selection_cost(settings, url, bodies)
        outcomes.append(_ray_cost(settings, url, bundle, BEST))
    with _graph(settings, bundle, APART) as url:
        outcomes.append(_ray_cost(settings, url, bundle, APART))
    return outcomes


def knobs(settings: Settings) -> list[Outcome]:
    """Say of every setting of Ray Serve what it gives, one after the other."""
    bundle = _bundle(settings)
    bodies = bundle_bodies(bundle)
    outcomes = []
    for name in KNOBS:
        with _graph(settings, bundle, name) as url:
            target = Target(f"{url}/v1/decide", bodies)
            rates = [
                _answers_a_second(target, f"{name}-{n}")
                for n in range(1 + settings.repeats)
            ]
        outcomes.append(alone(f"answers a second: {name}", rates[1:], "1/s"))
    return outcomes


def _selection_cost(
    settings: Settings, url: str, bodies: JsonBodies
) -> Iterator[Outcome]:
    """Yield the ratios of p50 and p99, selection before ranking / ranking alone."""
    paired, _, capacity = compare_with_ranking(
        url, bodies, num_blocks=4 * settings.repeats, name=f"{bodies.num_ads}-ads"
    )
    note = f"{bodies.shape}; {QUIET_SHARE:.0%} of {capacity:.0f}/s"
    if paired.failed or paired.is_client_bound:
        note += f"; {paired.failed} failed, client-bound: {paired.is_client_bound}"
    for quantile in QUANTILES:
        yield compared(
            f"selection first / ranking alone, {quantile}, {bodies.num_ads} ads",
            [one.quantiles_ms[quantile] for one in paired.first],
            [one.quantiles_ms[quantile] for one in paired.second],
            "ms",
            at_most(NEARLY_FREE),
            note,
        )


def _ray_cost(settings: Settings, url: str, bundle: Path, name: str) -> Outcome:
    """Compare answers a second with the same application in one uvicorn process."""
    bodies = bundle_bodies(bundle)
    with _without_ray(settings, bundle) as alone_url:

        def rate(base: str) -> float:
            return _answers_a_second(Target(f"{base}/v1/decide", bodies), "cost")

        ours, theirs = interleave(
            [lambda: rate(url), lambda: rate(alone_url)], settings.repeats
        )
    return compared(
        f"{name.partition(',')[0]} graph / one uvicorn process, answers a second",
        ours,
        theirs,
        "1/s",
        at_least(0.7),
        f"{name}; closed loop of {_CLIENTS}; {bodies.shape}",
    )


def _answers_a_second(target: Target, name: str) -> float:
    rate, _ = measure_capacity(
        target, duration_s=CLOSED_LOOP_S, concurrency=_CLIENTS, name=name
    )
    return rate


@contextmanager
def _graph(settings: Settings, bundle: Path, name: str) -> Iterator[str]:
    is_fused, environment = KNOBS[name]
    out = settings.out / "service" / name.replace(", ", "-").replace(" ", "-")
    out.mkdir(parents=True, exist_ok=True)
    told = {"bundle": str(bundle), **_BUDGET, "fused": is_fused}
    with serve_graph(out, 0, told, environment=environment) as graph:
        yield graph.url


@contextmanager
def _without_ray(settings: Settings, bundle: Path) -> Iterator[str]:
    """Run the same application under uvicorn alone."""
    out = settings.out / "service" / "alone"
    out.mkdir(parents=True, exist_ok=True)
    port = free_port()
    said = {
        "bundle": bundle,
        "port": port,
        "state": out / "state",
        "decision_log": out / "decisions",
        **_BUDGET,
    }
    with (out / "alone.log").open("wb") as stream:
        process = subprocess.Popen(
            [
                *[sys.executable, "-m", "serve.alone"],
                *[f"{name}={value}" for name, value in said.items()],
            ],
            stdout=stream,
            stderr=stream,
            env={**os.environ, **local_environment(), "OMP_NUM_THREADS": "1"},
        )
    url = f"http://{LOOPBACK}:{port}"
    try:
        wait_until_healthy(process, f"{url}/healthz", out / "alone.log", 60.0)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def _bundle(settings: Settings) -> Path:
    """Return the bundle to serve: the one named, or that of a market's cycle."""
    if settings.bundle is not None:
        return settings.bundle.absolute()
    log = market(settings.out, "small", 250_000)
    out = settings.out / "service" / "cycle"
    config = run_config("small").override({"features.text_encoder": "hashed-ngrams"})
    store = f"sqlite:///{settings.out / 'service' / 'mlflow.db'}"
    run_cycle(log.root, out, config, recipe="small", tracking_uri=store)
    return out / "bundle"
