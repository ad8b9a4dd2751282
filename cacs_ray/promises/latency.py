"""What a run of the load client says: quantiles, the client's lag, ratios of pairs."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl

from cacs_ray.errors import InputError
from cacs_ray.promises.arrivals import poisson_arrivals
from cacs_ray.promises.load import LoadLimits, Target, run_load

QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
CLIENT_SHARE: Final = 0.2
"""A client that is later than this share of the latency beside it measured itself."""
TURN_S: Final = 1.0
"""One target is asked for so long before it is the other's turn."""
_LEAD_S: Final = 0.2
"""Before a turn, for a request that opens the connection and does not count."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Latencies of the answered requests of one run, in milliseconds."""

    asked: int
    answered: int
    """With status 200."""
    replaced: int
    """Of these, those in which a fallback stood for a stage: less work was done."""
    quantiles_ms: dict[str, float]
    """By the names of `QUANTILES`; NaN when nothing was answered."""
    client_lag_ms: dict[str, float]
    """How late the client sent, over all requests, by the same names."""

    @property
    def is_client_bound(self) -> bool:
        """Whether the client's own lag is a good part of the p99."""
        lag = self.client_lag_ms["p99"]
        return not lag <= CLIENT_SHARE * self.quantiles_ms["p99"]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "asked": self.asked,
            "answered": self.answered,
            "replaced": self.replaced,
            "latency_ms": _rounded(self.quantiles_ms),
            "client_lag_ms": _rounded(self.client_lag_ms),
            "is_client_bound": self.is_client_bound,
        }

    def __str__(self) -> str:
        parts = [f"{name} {value:.1f}" for name, value in self.quantiles_ms.items()]
        lag = self.client_lag_ms["p99"]
        bound = ", CLIENT-BOUND" if self.is_client_bound else ""
        return f"{' '.join(parts)} ms (client lag p99 {lag:.1f} ms{bound})"


def latency_of(shots: pl.DataFrame) -> Latency:
    """Summarise one run.

    Args:
        shots: rows of `load.SHOTS`, at least one.
    """
    is_answered = shots.filter(pl.col("status") == 200)
    answered = is_answered["latency_ms"].to_numpy()
    return Latency(
        asked=shots.height,
        answered=len(answered),
        replaced=is_answered["fallback"].count(),
        quantiles_ms=quantiles(answered),
        client_lag_ms=quantiles(shots["lag_ms"].to_numpy()),
    )


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Return the `QUANTILES`, each a value that was measured (the next higher one).

    >>> quantiles(np.array([1.0, 2.0, 3.0, 4.0]))["p50"]
    3.0
    """
    if len(values) == 0:
        return dict.fromkeys(QUANTILES, float("nan"))
    found = np.quantile(values, list(QUANTILES.values()), method="higher")
    return dict(zip(QUANTILES, found.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class PairedLatency:
    """Two targets measured in turns, and what one costs beside the other."""

    first: tuple[Latency, ...]
    """One per block."""
    second: tuple[Latency, ...]

    def ratios(self, quantile: str) -> tuple[float, ...]:
        """Return first / second of each block, by a name of `QUANTILES`."""
        pairs = zip(self.first, self.second, strict=True)
        return tuple(
            a.quantiles_ms[quantile] / b.quantiles_ms[quantile] for a, b in pairs
        )

    def median_ratio(self, quantile: str) -> float:
        """Return the median of the blocks' ratios."""
        return statistics.median(self.ratios(quantile))

    @property
    def failed(self) -> int:
        """Requests of both without an answer of status 200 of all stages."""
        return sum(
            one.asked - one.answered + one.replaced
            for one in (*self.first, *self.second)
        )

    @property
    def is_client_bound(self) -> bool:
        """Whether the client was late in most blocks of one of the two."""
        sides = (self.first, self.second)
        return any(
            2 * sum(one.is_client_bound for one in side) > len(side) for side in sides
        )


def paired_latency(
    first: Target,
    second: Target,
    *,
    rate: float,
    block_s: float,
    num_blocks: int,
    limits: LoadLimits | None = None,
) -> tuple[PairedLatency, pl.DataFrame]:
    """Measure two targets in turns of a second, A B, B A, A B ..., on one schedule.

    A busy moment of the machine hits neighbours alike, and neither target is always
    the one that runs into warm caches. Turns of a block are pooled; with one long
    turn for each instead, the ratios of blocks differed by half. One block of each
    goes before, uncounted.

    Args:
        first: what is judged.
        second: what it is compared with.
        rate: requests a second, the same for both.
        block_s: seconds of a block, of each target.
        num_blocks: pairs that count, >= 1.
        limits: as of `run_load`; `seed` also draws the arrivals.

    Returns:
        The blocks' latencies, and all raw rows with columns `side` and `block`.

    Raises:
        InputError: no block.
    """
    if num_blocks < 1:
        raise InputError(f"{num_blocks} blocks", rule="at_least_1")
    limits = limits or LoadLimits()
    targets = {"first": first, "second": second}
    kept: dict[str, list[Latency]] = {"first": [], "second": []}
    raw = []
    num_turns = max(1, round(block_s / TURN_S))
    for block in range(num_blocks + 1):
        shots: dict[str, list[pl.DataFrame]] = {"first": [], "second": []}
        for turn in range(block * num_turns, (block + 1) * num_turns):
            arrivals = poisson_arrivals(rate, block_s / num_turns, limits.seed + turn)
            with_lead = np.append(0.0, _LEAD_S + arrivals)
            for side in _order(turn):
                named = replace(limits, name=f"{limits.name}-{side}-{turn}")
                shots[side].append(run_load(targets[side], with_lead, named)[1:])
        if block == 0:
            continue
        for side, parts in shots.items():
            pooled = pl.concat(parts)
            kept[side].append(latency_of(pooled))
            raw.append(pooled.with_columns(side=pl.lit(side), block=pl.lit(block)))
    paired = PairedLatency(tuple(kept["first"]), tuple(kept["second"]))
    return paired, pl.concat(raw)


def _order(turn: int) -> Sequence[str]:
    return ("second", "first") if turn % 2 else ("first", "second")


def _rounded(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {
        name: None if np.isnan(value) else round(value, 3)
        for name, value in values.items()
    }
