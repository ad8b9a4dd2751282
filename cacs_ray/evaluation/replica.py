"""A release in a process of its own, as a serving replica opens it, and its latency.

python -m cacs_ray.evaluation.replica CHALLENGER [CHAMPION]

The gate runs this in a fresh interpreter: what only works in the process that trained
a bundle shows here. Both releases answer the same requests in turns, so that whatever
else the machine does weighs on both alike.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch

from cacs_ray.bundle import Predictor
from cacs_ray.cluster import SPIN_COUNT
from cacs_ray.errors import InputError
from cacs_ray.golden import golden_requests, read_requests, replay_golden
from cacs_ray.schema import Column

ROUNDS: Final = 100
"""Times that each request is asked; with eight requests, eight hundred per side."""
_WARM_UP: Final = 5
_TIMEOUT_S: Final = 600.0
_DRAWS: Final = 300


def try_release(
    challenger: str | Path, champion: str | Path | None = None, *, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Open a bundle in a fresh process, replay its golden requests and time it.

    Args:
        challenger: directory of its bundle.
        champion: directory of the bundle that is served now.
        rounds: as of `ROUNDS`.

    Returns:
        `error` (why it does not open, else None), `golden` (rows compared),
        `load_s`, `challenger` and `champion` (None without one) with `p50_ms` and
        `p99_ms` of selector and ranker per request, `requests` timed per side, and
        `ratio` of both over the champion's, as of `latency_ratios`.
    """
    paths = [str(Path(path).absolute()) for path in (challenger, champion) if path]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "cacs_ray.evaluation.replica", str(rounds), *paths],
        cwd=root,
        env={**os.environ, "GOMP_SPINCOUNT": SPIN_COUNT},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        return {"error": lines[-1][:500], "golden": None, "champion": None}
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def measure(paths: Sequence[str], rounds: int) -> dict[str, Any]:
    """Do in this process what `try_release` tells."""
    # A replica's share of a machine; two pools would fight for the processors.
    torch.set_num_threads(1)
    started = time.perf_counter()
    challenger = Predictor.load(paths[0])
    load_s = time.perf_counter() - started
    golden = replay_golden(paths[0], challenger)
    sides = [challenger, *(Predictor.load(path) for path in paths[1:])]
    requests = [
        request
        for path, side in zip(paths, sides, strict=True)
        for request in requests_of(path, side)
    ]
    times = interleaved(sides, requests, rounds)
    told = [_quantiles(one) for one in times]
    champion = told[1] if len(told) > 1 else None
    return {
        "error": None,
        "golden": golden or len(requests),
        "load_s": load_s,
        "challenger": told[0],
        "champion": champion,
        "requests": int(times.shape[1]),
        "ratio": champion and latency_ratios(times),
    }


def interleaved(
    sides: Sequence[Predictor], requests: Sequence[pa.Table], rounds: int
) -> np.ndarray:
    """Time requests, each put to every release before the next one comes.

    Returns:
        float64 [releases, rounds x requests]: seconds.
    """
    for _ in range(_WARM_UP):
        for request in requests:
            for side in sides:
                answer(side, request)
    times = np.zeros((len(sides), rounds * len(requests)))
    for turn in range(times.shape[1]):
        # Who comes second finds warmer caches: they take turns in that too.
        for number in np.roll(np.arange(len(sides)), turn):
            started = time.perf_counter()
            answer(sides[int(number)], requests[turn % len(requests)])
            times[number, turn] = time.perf_counter() - started
    return times


def latency_ratios(times: np.ndarray) -> dict[str, dict[str, float]]:
    """Compare the latencies of two releases that took turns.

    Args:
        times: float [2, N]: of challenger and champion, a request a column.

    Returns:
        `p50` and `p99`, each with `value`, `low` and `high` of the challenger's over
        the champion's: a 95 % bootstrap over requests, for on a busy machine a 99th
        percentile alone says little.
    """
    rng = np.random.default_rng(0)
    drawn = times[:, rng.integers(0, times.shape[1], (_DRAWS, times.shape[1]))]
    ratios = {}
    for name, level in (("p50", 0.5), ("p99", 0.99)):
        value = np.quantile(times, level, axis=1)
        again = np.quantile(drawn, level, axis=2)
        low, high = np.quantile(again[0] / again[1], [0.025, 0.975])
        ratios[name] = {
            "value": float(value[0] / value[1]),
            "low": float(low),
            "high": float(high),
        }
    return ratios


def answer(predictor: Predictor, request: pa.Table) -> np.ndarray:
    """Choose a creative per candidate ad and predict its clicks: float64 [A]."""
    context = predictor.context(request)
    moments = request[Column.REQUEST_TS].cast(pa.int64()).to_numpy()
    lists = predictor.catalogue.lists(context.ad_row, moments)
    scores = predictor.selector_scores(context, lists)
    best = np.where(lists > 0, scores, -np.inf).argmax(axis=1)
    return predictor.pctr(context, lists[np.arange(len(lists)), best])


def requests_of(path: str, predictor: Predictor) -> list[pa.Table]:
    """Return a bundle's golden requests, one table each."""
    table = read_requests(path, predictor)
    if not table.num_rows:
        table = golden_requests(predictor)
    ids = table[Column.REQUEST_ID].to_numpy(zero_copy_only=False)
    return [table.filter(pa.array(ids == one)) for one in np.unique(ids)]


def _quantiles(seconds: np.ndarray) -> dict[str, float]:
    if not len(seconds):
        return {"p50_ms": float("nan"), "p99_ms": float("nan")}
    p50, p99 = 1000 * np.quantile(seconds, [0.5, 0.99])
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


def main(argv: Sequence[str]) -> int:
    """Print what was measured as one line of JSON; 1 with the reason on stderr."""
    try:
        told = measure(argv[1:], int(argv[0]))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
