"""Validation, join and encoding against DuckDB and Polars, on the same files."""

import json
import shutil
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from cacs_ray.benchmarks.child import NUM_CPUS, Finished, run_module, run_script
from cacs_ray.benchmarks.environment import peer_python
from cacs_ray.benchmarks.market import Market, market
from cacs_ray.benchmarks.outcome import (
    Outcome,
    Settings,
    alone,
    at_least,
    at_most,
    compared,
    interleave,
)

_GIB: Final = 2**30
_MOST_REPEATS: Final = 2
"""Millions of rows take minutes, and differ little from run to run."""
_SMALL_ROWS: Final = 500_000
_PHASES: Final = ("validate_s", "fit_s", "encode_s")


def preprocessing(settings: Settings) -> list[Outcome]:
    """Compare rows per second and memory; see `Contest`."""
    contest = Contest(settings.out, "large", settings.rows)
    watched = {n: contest.run(n, watch_memory=True) for n in contest.sides}
    last: dict[str, Finished] = {}

    def measure(name: str) -> float:
        last[name] = contest.run(name)
        return float(last[name].said["seconds"])

    seconds = interleave(
        [lambda n=name: measure(n) for name in contest.sides],  # type: ignore[misc]
        min(settings.repeats, _MOST_REPEATS),
        # Each run is a new process: there is nothing to warm but the page cache,
        # and the runs that were watched have filled it.
        warm_ups=0,
    )
    rows = {name: [len(contest) / s for s in seconds[i]] for i, name in _numbered(last)}
    contest.refuse_disagreement({name: done.said for name, done in last.items()})
    fastest = [max(pair) for pair in zip(rows["duckdb"], rows["polars"], strict=True)]
    what = f"preprocessing, {len(contest) / 1e6:g} M impressions"
    notes = {n: f"peak {_gib(done):.1f} GiB" for n, done in watched.items()}
    phases = ", ".join(f"{p[:-2]} {last['ours'].said[p]:.1f} s" for p in _PHASES)
    table = [
        compared(
            f"{what}: {peer}", rows["ours"], rows[peer], "rows/s", None, notes[peer]
        )
        for peer in ("duckdb", "polars")
    ]
    note = f"{notes['ours']}; {phases}"
    goal = at_least(0.5)
    for side, which in (("ours", "the faster"), ("awake", "the faster, workers awake")):
        table.append(
            compared(f"{what}: {which}", rows[side], fastest, "rows/s", goal, note)
        )
    return [
        *table,
        *_memory(settings, _gib(watched["ours"])),
        _half_a_million(settings),
    ]


def _memory(settings: Settings, single_gib: float) -> list[Outcome]:
    double = Contest(settings.out, "large", 2 * settings.rows)
    double_gib = _gib(double.run("ours", watch_memory=True))
    what = "preprocessing, peak memory of all processes"
    return [
        alone(
            f"{what}, {len(double) / 1e6:g} M", [double_gib], "GiB", at_most(6.0), "PSS"
        ),
        compared(
            f"{what}, twice the rows",
            [double_gib],
            [single_gib],
            "GiB",
            at_most(1.1),
            f"flat from {settings.rows / 1e6:g} M on",
        ),
    ]


def _half_a_million(settings: Settings) -> Outcome:
    contest = Contest(settings.out, "small", _SMALL_ROWS)
    seconds = [float(contest.run("ours").said["seconds"])]
    what = "preprocessing, 0.5 M impressions, beyond Ray's start"
    return alone(what, seconds, "s", at_most(20.0))


def _gib(run: Finished) -> float:
    assert run.peak_bytes is not None
    return run.peak_bytes / _GIB


def _numbered(runs: Mapping[str, Any]) -> list[tuple[int, str]]:
    return list(enumerate(runs))


class Contest:
    """The three sides on one market; each run is a process of its own.

    Args:
        out: where the benchmarks keep things.
        recipe: of the simulation.
        num_impressions: of the market.
    """

    sides = ("ours", "awake", "duckdb", "polars")
    """`awake` is ours once more, with the libraries of Ray's workers imported."""

    def __init__(self, out: Path, recipe: str, num_impressions: int) -> None:
        self._out = out.absolute()
        self._recipe, self._num_impressions = recipe, num_impressions
        self._bounds: str | None = None

    def __len__(self) -> int:
        return self._num_impressions

    @cached_property
    def market(self) -> Market:
        """The log, simulated when it is first asked for."""
        return market(self._out, self._recipe, self._num_impressions)

    def written(self, side: str) -> Path:
        """Return where a side writes; what its last run left stands there."""
        return self._out / "preprocessed" / side

    def run(self, side: str, *, watch_memory: bool = False) -> Finished:
        """Preprocess the market once; the earlier result of this side is removed.

        Args:
            side: one of `sides`.
            watch_memory: see `run_child`.

        Raises:
            ValueError: a peer is run before our side, which finds the windows.
        """
        target = self.written(side)
        shutil.rmtree(target, ignore_errors=True)
        if side in ("ours", "awake"):
            target.mkdir(parents=True)
            done = run_module(
                "cacs_ray.benchmarks.ours_preprocessing",
                str(self.market.described),
                str(target),
                str(NUM_CPUS + 1),
                side,
                watch_memory=watch_memory,
            )
            self._bounds = json.dumps(done.said["bounds"])
            return done
        if self._bounds is None:
            raise ValueError("peers are given the windows that our side found first")
        target.parent.mkdir(parents=True, exist_ok=True)
        arguments = [str(self.market.root), str(target), self._bounds]
        if side == "duckdb":
            python = peer_python(self._out)
            arguments.append(str(NUM_CPUS))
            script = "peer_duckdb.py"
        else:
            python, script = Path(sys.executable), "peer_polars.py"
        return run_script(python, script, *arguments, watch_memory=watch_memory)

    @staticmethod
    def refuse_disagreement(said: Mapping[str, Mapping[str, Any]]) -> None:
        """Stop when the sides did not accept and reject the same rows.

        Raises:
            RuntimeError: they did not; a ratio of speeds would mean nothing.
        """
        counts = {
            name: (one["accepted"], one["rejected"]) for name, one in said.items()
        }
        if any(count != counts["ours"] for count in counts.values()):
            raise RuntimeError(f"the sides disagree about the rows: {counts}")
