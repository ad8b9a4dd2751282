"""The promise of swaps: releases change under load and nobody notices."""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import httpx
import polars as pl

from cacs_ray.data.files import write_json
from cacs_ray.manifest import read_manifest
from cacs_ray.promises.arrivals import constant_arrivals, poisson_arrivals
from cacs_ray.promises.bench import Bench
from cacs_ray.promises.bodies import bundle_bodies
from cacs_ray.promises.fault_proxy import Fault, fault_proxy
from cacs_ray.promises.judges import judge_no_error
from cacs_ray.promises.load import LoadLimits, run_load
from cacs_ray.promises.service import NOMINAL_SHARE, Service, keep, serving
from cacs_ray.promises.siblings import write_broken, write_sibling
from cacs_ray.promises.swap_judges import (
    EARLY_S,
    halves,
    judge_steady,
    judge_swap_times,
    judge_swaps,
    judge_whole_answers,
)
from cacs_ray.promises.verdict import Outcome, Verdict
from cacs_ray.repeating import repeating

_SWAPS: Final = 20
_NUM_BODIES: Final = 20
"""Different requests; the answer of each release to each of them is known."""
_WAIT_S: Final = 120.0
_POLL_S: Final = 0.3

Answers = Mapping[str, Mapping[int, str]]
"""Bundle id -> index of the body -> placements as JSON."""


@dataclass(frozen=True, slots=True)
class Swap:
    """One swap, as the operator saw it; moments by `time.perf_counter`."""

    asked_s: float
    live_s: float
    """When it was seen live."""
    is_load: bool
    """Whether no replica held the bundle when it was asked for."""

    @property
    def took_s(self) -> float:
        """Seconds from asking until it was seen live."""
        return self.live_s - self.asked_s


@dataclass(slots=True)
class Swapper:
    """An operator: asks for releases by the admin routes and notes what happened."""

    url: str
    token: str
    client: httpx.Client
    """One for all: to make one takes time, and this process sends the load."""
    outcomes: list[tuple[str, bool]] = field(default_factory=list)
    """What was asked, and whether it went as it must."""
    swaps: list[Swap] = field(default_factory=list)
    """Those that ended."""

    def swap(self, name: str, bundle_id: str) -> None:
        """Make a bundle live and wait until it is."""
        held = {one for each in self._settled()["replicas"].values() for one in each}
        asked_s = time.perf_counter()
        state = self._post("releases", {"bundle": name})
        self._note(f"swap to {name}", state, live=bundle_id)
        self.swaps.append(Swap(asked_s, time.perf_counter(), bundle_id not in held))

    def refuse(self, name: str, live: str) -> None:
        """Offer a broken bundle; what is live must stay."""
        state = self._post("releases", {"bundle": name})
        self._note(f"refuse {name}", state, live=live)

    def roll_back(self, bundle_id: str) -> None:
        """Return to the release before, by one request."""
        self._note("roll back", self._post("rollback", {}), live=bundle_id)

    def _post(self, route: str, body: dict[str, str]) -> str:
        """Ask until it is not shed like any other request; return the status."""
        started = time.monotonic()
        while True:
            answer = self.client.post(
                f"{self.url}/admin/{route}",
                # Ray Serve ends a request before a load of weights ends.
                params={"wait_s": 0} if route == "releases" else None,
                json=body,
                headers=self._headers,
                timeout=_WAIT_S,
            )
            is_shed = answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
            if not is_shed or time.monotonic() - started > _WAIT_S:
                return f"{answer.status_code}"
            time.sleep(1.0)

    def _note(self, what: str, said: str, *, live: str) -> None:
        """Wait until nothing is on its way, then see whether the right one is live."""
        started = time.monotonic()
        state = self._settled()
        seconds = time.monotonic() - started
        is_so = state.get("live") == live and state.get("next") is None
        told = f"{what}: {said}, {seconds:.1f} s, {state.get('live')} live"
        self.outcomes.append((told, is_so))

    def _settled(self) -> dict[str, Any]:
        """Return how it stands once nothing is on its way, or after `_WAIT_S`."""
        started, state = time.monotonic(), self._state()
        while state.get("next") is not None and time.monotonic() - started < _WAIT_S:
            time.sleep(_POLL_S)
            state = self._state()
        return state

    def _state(self) -> dict[str, Any]:
        answer = self.client.get(
            f"{self.url}/admin/releases", headers=self._headers, timeout=_WAIT_S
        )
        if answer.status_code == httpx.codes.OK:
            return dict(answer.json())
        # It may be shed like any other request: then nothing is known yet.
        return {"next": f"unknown, status {answer.status_code}"}

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


def swap(bench: Bench) -> Outcome:
    """Twenty swaps under load, a broken bundle, a rollback."""
    plan = bench.plan
    ids = _write_releases(plan.bundle, plan.out / "releases")
    args = {"epsilon": 0.0, "releases": str(plan.out / "releases")}
    with serving(plan, "swaps", args=args) as service:
        bodies = bundle_bodies(plan.bundle, num_different=_NUM_BODIES)
        with httpx.Client() as client:
            swapper = Swapper(service.graph.url, service.admin_token, client)
            return _swapped(bench, service.with_bodies(bodies), swapper, ids)


def _write_releases(bundle: Path, root: Path) -> dict[str, str]:
    """Write the bundles that take turns, and a broken one; return their ids by name.

    Three, because a replica holds the live one and the one before: of two, none would
    ever be loaded again.
    """
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    shutil.copytree(bundle, root / "first")
    write_broken(bundle, root / "broken")
    return {
        "first": str(read_manifest(bundle)["bundle_id"]),
        "second": write_sibling(bundle, root / "second"),
        "third": write_sibling(bundle, root / "third", distance=2),
    }


def _swapped(
    bench: Bench, service: Service, swapper: Swapper, ids: dict[str, str]
) -> Outcome:
    plan = bench.plan
    rate = NOMINAL_SHARE * service.capacity()
    expected = {}
    for name in ("second", "third", "first"):
        swapper.swap(name, ids[name])
        expected[ids[name]] = _answers(service, bench.name(f"expected-{name}"))
    seconds, count = plan.seconds(600, least=30), plan.count(_SWAPS, least=2)
    before = _run(service, bench, "steady", rate, plan.seconds(120, least=10))
    # The last one has its time too.
    every_s = seconds / (count + 1)
    num_before = len(swapper.swaps)
    with _swapping(swapper, ids, count, every_s):
        started_s = time.perf_counter()
        shots = _run(service, bench, "swaps", rate, seconds)
        swaps = swapper.swaps[num_before:]
    keep(plan, "swaps-steady", before)
    keep(plan, "swaps", shots)
    asked_s = [one.asked_s - started_s for one in swaps]
    write_json(plan.out / "raw" / "swaps-asked-s.json", {"asked_s": asked_s})
    return Outcome(
        "swap of a release",
        f"{len(swaps)} swaps in {seconds:.0f} s at {rate:.1f}/s, then a broken bundle "
        f"and a rollback, {service.setting}",
        (
            judge_no_error("requests during swaps", shots),
            judge_steady(*halves(shots, asked_s, every_s / 2), before),
            judge_whole_answers(shots, expected),
            judge_swaps(swapper.outcomes, [one.is_load for one in swaps], count),
            judge_swap_times([one.took_s for one in swaps], every_s / 2 - EARLY_S),
        ),
        (_spoilt(bench, service, ids["second"], rate, expected),),
        "a proxy that stamps 10 % with another release",
    )


def _spoilt(
    bench: Bench, service: Service, release: str, rate: float, expected: Answers
) -> Verdict:
    """Judge answers that bear the name of a release that did not give them."""
    with fault_proxy(service.graph.url, Fault(share=0.1, release=release)) as spoilt:
        shots = run_load(
            service.target(spoilt),
            constant_arrivals(rate, max(5.0, 60 / rate)),
            LoadLimits(name=bench.name("swaps-control"), keeps_answers=True),
        )
    return judge_whole_answers(shots, expected)


@contextmanager
def _swapping(
    swapper: Swapper, ids: dict[str, str], count: int, every_s: float
) -> Iterator[None]:
    """Swap while the body runs; end with a broken bundle and a rollback to first."""
    names = islice(cycle(("second", "third", "first")), count)

    def swap_next() -> None:
        name = next(names, None)
        if name is not None:
            swapper.swap(name, ids[name])

    try:
        with repeating(swap_next, every_s, "swapping"):
            yield
    finally:
        swapper.swap("first", ids["first"])
        swapper.swap("second", ids["second"])
        swapper.refuse("broken", ids["second"])
        swapper.roll_back(ids["first"])


def _answers(service: Service, name: str) -> dict[int, str]:
    """Return what the live release answers to each body."""
    shots = run_load(
        service.target(),
        constant_arrivals(5.0, _NUM_BODIES / 5.0),
        LoadLimits(name=name, keeps_answers=True),
    )
    whole = shots.filter((pl.col("status") == 200) & pl.col("fallback").is_null())
    if whole.height < _NUM_BODIES:
        time.sleep(2.0)
        return _answers(service, f"{name}-again")
    return dict(enumerate(shots["placements"].to_list()))


def _run(
    service: Service, bench: Bench, name: str, rate: float, seconds: float
) -> pl.DataFrame:
    return run_load(
        service.target(),
        poisson_arrivals(rate, seconds, seed=8),
        LoadLimits(name=bench.name(name), keeps_answers=True),
    )
