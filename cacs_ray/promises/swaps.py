"""The promise of swaps: releases change under load and nobody notices."""

import json
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

from cacs_ray.promises.arrivals import constant_arrivals, poisson_arrivals
from cacs_ray.promises.bench import Bench
from cacs_ray.promises.bodies import bundle_bodies
from cacs_ray.promises.fault_proxy import Fault, fault_proxy
from cacs_ray.promises.judges import judge_no_error, judge_steady, judge_whole_answers
from cacs_ray.promises.load import LoadLimits, run_load
from cacs_ray.promises.service import NOMINAL_SHARE, Service, keep, serving
from cacs_ray.promises.siblings import write_broken, write_sibling
from cacs_ray.promises.verdict import Outcome, Verdict
from cacs_ray.repeating import repeating

_SWAPS: Final = 20
_NUM_BODIES: Final = 20
"""Different requests; the answer of each release to each of them is known."""
_WAIT_S: Final = 120.0
_POLL_S: Final = 0.3

Answers = Mapping[str, Mapping[int, str]]
"""Bundle id -> index of the body -> placements as JSON."""


@dataclass(slots=True)
class Swapper:
    """An operator: asks for releases by the admin routes and notes what happened."""

    url: str
    token: str
    outcomes: list[tuple[str, bool]] = field(default_factory=list)
    """What was asked, and whether it went as it must."""

    def swap(self, name: str, bundle_id: str) -> None:
        """Make a bundle live and wait until it is."""
        state = self._post("releases", {"bundle": name})
        self._note(f"swap to {name}", state, live=bundle_id)

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
            answer = httpx.post(
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
        started, state = time.monotonic(), self._state()
        while state.get("next") is not None and time.monotonic() - started < _WAIT_S:
            time.sleep(_POLL_S)
            state = self._state()
        seconds = time.monotonic() - started
        is_so = state.get("live") == live and state.get("next") is None
        told = f"{what}: {said}, {seconds:.1f} s, {state.get('live')} live"
        self.outcomes.append((told, is_so))

    def _state(self) -> dict[str, Any]:
        answer = httpx.get(
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
    root = plan.out / "releases"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    shutil.copytree(plan.bundle, root / "first")
    write_broken(plan.bundle, root / "broken")
    first = _bundle_id(plan.bundle)
    second = write_sibling(plan.bundle, root / "second")
    args = {"epsilon": 0.0, "releases": str(root)}
    with serving(plan, "swaps", args=args) as service:
        bodies = bundle_bodies(plan.bundle, num_different=_NUM_BODIES)
        return _swapped(
            bench,
            service.with_bodies(bodies),
            Swapper(service.graph.url, service.admin_token),
            {"first": first, "second": second},
        )


def _swapped(
    bench: Bench, service: Service, swapper: Swapper, ids: dict[str, str]
) -> Outcome:
    plan = bench.plan
    rate = NOMINAL_SHARE * service.capacity()
    expected = {}
    for name in ("second", "first"):
        swapper.swap(name, ids[name])
        expected[ids[name]] = _answers(service, bench.name(f"expected-{name}"))
    seconds = plan.seconds(600, least=30)
    steady = _run(service, bench, "steady", rate, plan.seconds(120, least=10))
    count = plan.count(_SWAPS, least=2)
    with _swapping(swapper, ids, count, seconds / (count + 1)):
        shots = _run(service, bench, "swaps", rate, seconds)
    keep(plan, "swaps-steady", steady)
    keep(plan, "swaps", shots)
    with fault_proxy(
        service.graph.url, Fault(share=0.1, release=_other(ids, swapper))
    ) as spoilt:
        control = run_load(
            service.target(spoilt),
            constant_arrivals(rate, max(5.0, 60 / rate)),
            LoadLimits(name=bench.name("swaps-control"), keeps_answers=True),
        )
    failed = [what for what, is_so in swapper.outcomes if not is_so]
    return Outcome(
        "swap of a release",
        f"{count} swaps in {seconds:.0f} s at {rate:.1f}/s, then a broken bundle and a "
        f"rollback, {service.setting}",
        (
            judge_no_error("requests during swaps", shots),
            judge_steady(shots, steady),
            judge_whole_answers(shots, expected),
            Verdict(
                "swaps, refusal, rollback",
                len(swapper.outcomes),
                len(failed),
                f"went wrong: {failed}" if failed else "all went as asked",
                "0 failed",
                not failed,
                "; ".join(what for what, _ in swapper.outcomes[-2:]),
            ),
        ),
        (judge_whole_answers(control, expected),),
        "a proxy that stamps 10 % with the other release",
    )


def _other(ids: dict[str, str], swapper: Swapper) -> str:
    """Return the release that is not live after the last rollback."""
    last = swapper.outcomes[-1][0]
    assert last.startswith("roll back"), last
    return ids["second"]


@contextmanager
def _swapping(
    swapper: Swapper, ids: dict[str, str], count: int, every_s: float
) -> Iterator[None]:
    """Swap while the body runs; end with a broken bundle and a rollback to first."""
    names = islice(cycle(("second", "first")), count)

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


def _bundle_id(bundle: Path) -> str:
    return str(json.loads((bundle / "manifest.json").read_text())["bundle_id"])
