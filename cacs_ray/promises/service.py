"""The service under test: started as the demonstration does, asked and looked into."""

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import httpx
import polars as pl

from cacs_ray.data.files import write_table
from cacs_ray.promises.arrivals import constant_arrivals
from cacs_ray.promises.bodies import JsonBodies, bundle_bodies
from cacs_ray.promises.latency import Latency, latency_of
from cacs_ray.promises.load import Target, measure_capacity, run_load
from cacs_ray.promises.processes import Actor, actors_of, command_lines
from cacs_ray.recipes.serving import ServedGraph, serve_graph

NOMINAL_SHARE: Final = 0.6
"""Of the capacity: the load that the service is promised to hold."""
_FAULTY_GRAPH: Final = "tests.faulty_graph:build_app"
_IN_WORK: Final = "ray_serve_replica_processing_queries"
_SAMPLE: Final = re.compile(r"^(\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(deployment|replica)="([^"]*)"')
_POLL_S: Final = 0.5


NEVER_CROWDED: Final = {"max_in_flight": 64, "max_in_full": 64}
"""Arguments with which every answer is the whole work, however many wait."""

GraphName = Literal["fused", "composed", "selector_in_gateway"]
"""All stages in the gateway's process, a deployment for each, or the ranker's alone."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What every check is told."""

    out: Path
    """Gets raw latencies, logs of the service, results."""
    bundle: Path
    scale: float = 1.0
    """Of durations and counts; 1 is what the promises say."""
    graph: GraphName = "fused"
    """Which stages are in the gateway's process."""

    @property
    def setting(self) -> str:
        """Which graph it is, in words."""
        return f"{self.graph.replace('_', ' ')} graph"

    def seconds(self, full: float, least: float = 3.0) -> float:
        """Return a duration of the promises, scaled."""
        return max(least, self.scale * full)

    def count(self, full: int, least: int = 20) -> int:
        """Return a count of the promises, scaled."""
        return max(least, round(self.scale * full))


@dataclass(frozen=True, slots=True)
class Service:
    """A graph that runs, and requests for it."""

    graph: ServedGraph
    bodies: JsonBodies
    plan: Plan
    fault_file: Path | None = None
    """Of a faulty graph: what its stages do wrong now."""
    admin_token: str = ""
    """Opens an operator's routes."""

    @property
    def setting(self) -> str:
        """What was measured, in words."""
        return f"{self.bodies.shape}, {self.plan.setting}"

    def with_bodies(self, bodies: JsonBodies) -> "Service":
        """Return the same service, asked other requests."""
        return replace(self, bodies=bodies)

    def target(self, base: str | None = None, **headers: str) -> Target:
        """Return the route that decides.

        Args:
            base: another address that leads there, such as a proxy's.
            headers: of every request; `_` stands for `-`.
        """
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Target(f"{base or self.graph.url}/v1/decide", self.bodies, named)

    def actors(self, *without: str) -> list[Actor]:
        """Return replicas and proxies, but those of some names."""
        found = actors_of(self.graph.pid)
        return [actor for actor in found if actor.name not in without]

    def counter(self, name: str) -> float:
        """Return the sum of one of the gateway's counters, 0 when it has none."""
        page = httpx.get(f"{self.graph.url}/metrics", timeout=10).text
        return sum(
            float(value) for found, _, value in _SAMPLE.findall(page) if found == name
        )

    def in_flight(self) -> dict[str, float]:
        """Return by replica the requests that Ray Serve says are in work.

        Ray gathers them every few seconds; replicas that ended may linger a while.
        """
        waiting: dict[str, float] = {}
        for address in _metric_addresses(self.graph.pid):
            page = _page(f"http://{address}/metrics")
            for name, labels, value in _SAMPLE.findall(page):
                if name == _IN_WORK:
                    waiting["/".join(dict(_LABEL.findall(labels)).values())] = float(
                        value
                    )
        return waiting

    def capacity(self, full_s: float = 60.0) -> float:
        """Return answers a second in a closed loop, and keep the raw rows.

        A minute, because a machine that is shared is at times half as fast.
        """
        name = f"capacity-{time.time_ns() % 10**9}"
        seconds = self.plan.seconds(full_s, least=5.0)
        rate, shots = measure_capacity(self.target(), duration_s=seconds, name=name)
        keep(self.plan, name, shots)
        return rate

    def wait_until_whole(self, num_actors: int, timeout_s: float = 120.0) -> float:
        """Return after how many seconds all actors are there and nothing falls back.

        Raises:
            TimeoutError: that did not happen in time.
        """

        def is_whole() -> bool:
            if len(self.actors()) < num_actors:
                return False
            shots = run_load(self.target(), constant_arrivals(10.0, 0.5))
            return bool(
                (shots["status"] == 200).all() and shots["fallback"].is_null().all()
            )

        return wait_until(is_whole, timeout_s, "the service is not whole again")

    def set_fault(self, **faults: str) -> None:
        """Let stages of a faulty graph do something wrong; nothing when empty.

        Raises:
            ValueError: the graph is not a faulty one.
        """
        if self.fault_file is None:
            raise ValueError("this graph has no faults")
        aside = self.fault_file.with_suffix(".new")
        aside.write_text(json.dumps(faults))
        aside.replace(self.fault_file)


@contextmanager
def serving(
    plan: Plan,
    name: str,
    *,
    is_faulty: bool = False,
    num_replicas: int = 1,
    args: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Service]:
    """Start the service, or one whose stages can be told to fail."""
    out = plan.out / name
    out.mkdir(parents=True, exist_ok=True)
    token, token_file = secrets.token_hex(16), out / "admin-token"
    token_file.touch(mode=0o600)
    token_file.write_text(token)
    told: dict[str, Any] = {
        "fused": plan.graph == "fused",
        "selector_in_gateway": plan.graph == "selector_in_gateway",
        "admin_token_file": str(token_file),
        **args,
    }
    fault_file = None
    if is_faulty:
        fault_file = out / "fault.json"
        fault_file.write_text("{}")
        told["fault_file"] = str(fault_file)
    with serve_graph(
        out,
        0,
        {"bundle": str(plan.bundle), **told},
        import_path=_FAULTY_GRAPH if is_faulty else None,
        num_replicas=num_replicas,
    ) as graph:
        yield Service(graph, bundle_bodies(plan.bundle), plan, fault_file, token)


def keep(plan: Plan, name: str, shots: pl.DataFrame) -> Latency:
    """Keep the raw rows of a run; return what they say."""
    raw = plan.out / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    write_table(raw / f"{name}.parquet", shots.to_arrow())
    return latency_of(shots)


def wait_until(is_so: Callable[[], bool], timeout_s: float, problem: str) -> float:
    """Return the seconds until something is so.

    Raises:
        TimeoutError: it was not within `timeout_s`.
    """
    started = time.monotonic()
    while not is_so():
        if time.monotonic() - started > timeout_s:
            raise TimeoutError(f"{problem} after {timeout_s:g} s")
        time.sleep(_POLL_S)
    return time.monotonic() - started


def _page(address: str) -> str:
    """Return a page; nothing when nobody answers there."""
    try:
        return httpx.get(address, timeout=10).text
    except httpx.TransportError:
        return ""


def _metric_addresses(pid: int) -> list[str]:
    """Return where the Ray below a process tells its metrics."""
    for line in command_lines(pid):
        for part in line:
            if part.startswith("--log_dir="):
                session = Path(part.partition("=")[2]).parent
                found = session / "prom_metrics_service_discovery.json"
                listed = json.loads(found.read_text()) if found.is_file() else []
                return [address for one in listed for address in one["targets"]]
    return []
