"""Whether training that is killed ends where it would have ended."""

import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import numpy as np

from cacs_ray.benchmarks.child import run_module
from cacs_ray.benchmarks.market import encoded
from cacs_ray.benchmarks.outcome import Outcome, Settings, alone, at_most
from cacs_ray.benchmarks.training import NUM_ROWS
from cacs_ray.cluster import local_environment

_NUM_DEATHS: Final = 5
_SHORTEST, _LONGEST = 8, 18
"""Steps of a life: at least one checkpoint apart, and five of them in one run."""


def deaths(settings: Settings) -> list[Outcome]:
    """Kill the process, then one of two workers, five times each; see `ours_deaths`.

    The steps are drawn anew each time the benchmark runs and stand in the note.
    """
    lives = np.random.default_rng().integers(_SHORTEST, _LONGEST, _NUM_DEATHS)
    directory = encoded(settings.out, "small", NUM_ROWS).encoded_dir
    place = settings.out / "deaths"
    shutil.rmtree(place, ignore_errors=True)
    return [
        _compared(directory, place, lives.tolist(), num_workers=0, bound=0.0),
        _compared(directory, place, lives.tolist(), num_workers=2, bound=1e-6),
    ]


def _compared(
    directory: str, place: Path, lives: list[int], *, num_workers: int, bound: float
) -> Outcome:
    undisturbed = _run(directory, place / f"whole-{num_workers}", num_workers, "-")
    drawn = ",".join(map(str, lives))
    killed = _run(directory, place / f"killed-{num_workers}", num_workers, drawn)
    if killed["deaths"] != len(lives) or killed["steps"] != undisturbed["steps"]:
        raise RuntimeError(f"not killed as told: {killed} beside {undisturbed}")
    difference = max(
        abs(value - undisturbed["metrics"][name])
        for name, value in killed["metrics"].items()
    )
    is_equal = killed["digest"] == undisturbed["digest"]
    who = "the process" if num_workers == 0 else f"a worker of {num_workers}"
    return alone(
        f"{who} killed {len(lives)} times: largest difference of a metric",
        [difference if num_workers or is_equal else max(difference, 1.0)],
        "",
        at_most(bound),
        f"weights {'equal' if is_equal else 'not equal'} bit for bit; after {drawn} "
        f"steps, of {killed['steps']}",
    )


def _run(directory: str, out: Path, num_workers: int, lives: str) -> dict[str, Any]:
    """Run the child until it lives to the end."""
    arguments = (directory, str(out), str(num_workers), lives)
    for _ in range(_NUM_DEATHS + 1):
        try:
            module = "cacs_ray.benchmarks.ours_deaths"
            return dict(
                run_module(module, *arguments, environment=local_environment()).said
            )
        except (RuntimeError, subprocess.SubprocessError):
            if num_workers:  # Ray Train is to survive the death of a worker
                raise
    raise RuntimeError("it died more often than it was told to")
