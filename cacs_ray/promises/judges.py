"""Counts in, verdicts out: pure, so that each can be shown to fail.

Tables are rows of `load.SHOTS`.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import polars as pl
from scipy import stats

from cacs_ray.promises.latency import PairedLatency, latency_of, quantiles
from cacs_ray.promises.load import NO_ANSWER
from cacs_ray.promises.verdict import Verdict

OK: Final = 200
SHED: Final = 503
SLOWER: Final = 2.0
"""Accepted requests of an overload may take so many times the nominal p99."""
SHED_MS: Final = 50.0
RECOVERY_S: Final = 5.0
FIRST_TRY: Final = 0.999
GROWTH: Final = 0.05
NEARLY_FREE: Final = 1.05
"""A graph with selection may take so many times what the same graph takes to rank."""
_LOWER: Final = 0.1
"""Of the answers of a good second may be by a lower rung."""
_WINDOW_S: Final = 1.0


def judge_no_error(check: str, shots: pl.DataFrame, *, note: str = "") -> Verdict:
    """Every request is answered with 200."""
    failed = shots.filter(pl.col("status") != OK)
    num_lower = shots["fallback"].count()
    figure = f"{latency_of(shots)}; {num_lower:,} by a lower rung"
    limit = "0 failed"
    kept = failed.height == 0 and shots.height > 0
    return Verdict(check, shots.height, failed.height, figure, limit, kept, note)


def judge_accepted(shots: pl.DataFrame, nominal_p99_ms: float) -> Verdict:
    """What an overloaded service accepts is hardly slower than what it always is."""
    latencies = shots.filter(pl.col("status") == OK)["latency_ms"].to_numpy()
    most_ms = SLOWER * nominal_p99_ms
    p99 = quantiles(latencies)["p99"]
    return Verdict(
        "accepted requests stay quick",
        len(latencies),
        int((latencies > most_ms).sum()),
        f"p99 {p99:.1f} ms of {len(latencies) / shots.height:.0%} accepted, "
        f"{shots['fallback'].count():,} by a lower rung",
        f"p99 <= {SLOWER:g} x nominal = {most_ms:.1f} ms",
        bool(p99 <= most_ms),
        lag_note(shots),
    )


def judge_refused(shots: pl.DataFrame) -> Verdict:
    """What is not accepted is refused at once, and told when to come again.

    Counted from when the client really sent it: how late a busy client was says
    nothing of how quickly the service refuses.
    """
    refused = shots.filter(pl.col("status") != OK)
    proper = refused.filter((pl.col("status") == SHED) & pl.col("has_retry_after"))
    took = (proper["latency_ms"] - proper["lag_ms"]).to_numpy()
    p99 = quantiles(took)["p99"]
    improper = refused.height - proper.height
    return Verdict(
        "the rest is refused at once",
        refused.height,
        improper + int((took >= SHED_MS).sum()),
        f"{improper} not 503 with Retry-After; p99 of refusals {p99:.1f} ms",
        f"all 503 with Retry-After, p99 < {SHED_MS:g} ms",
        improper == 0 and bool(p99 < SHED_MS),
        "nothing was refused: no overload" if refused.height == 0 else "",
    )


def judge_recovery(shots: pl.DataFrame, nominal_p99_ms: float) -> Verdict:
    """After the overload, ordinary load is soon served as before.

    Recovered is the first second whose requests were all answered with 200, 95 % of
    them within twice the nominal p99 and 90 % by no lower rung.
    """
    most_ms = SLOWER * nominal_p99_ms
    windows = (
        shots.with_columns(window=(pl.col("scheduled_s") // _WINDOW_S))
        .group_by("window", maintain_order=True)
        .agg(
            is_ok=(pl.col("status") == OK).all(),
            p95=pl.col("latency_ms").quantile(0.95, "higher"),
            lower=pl.col("fallback").is_not_null().mean(),
        )
        .filter(
            pl.col("is_ok") & (pl.col("p95") <= most_ms) & (pl.col("lower") <= _LOWER)
        )
    )
    recovered = float(windows["window"][0] * _WINDOW_S) if windows.height else np.inf
    return Verdict(
        "recovery",
        shots.height,
        shots.filter(pl.col("status") != OK).height,
        f"{recovered:g} s until a good second begins",
        f"<= {RECOVERY_S:g} s",
        recovered <= RECOVERY_S,
    )


def judge_ratio(check: str, paired: PairedLatency, quantile: str) -> Verdict:
    """The first of two targets takes hardly longer than the second.

    A request without an answer of all stages breaks it, survivors alone would
    flatter; and so does a client that was late itself, which hides a difference. The
    interval, 95 % by bootstrap over blocks, is told and not judged.
    """
    ratios = paired.ratios(quantile)
    ratio = paired.median_ratio(quantile)
    first, second = (
        statistics.median(one.quantiles_ms[quantile] for one in side)
        for side in (paired.first, paired.second)
    )
    return Verdict(
        check,
        sum(one.asked for one in (*paired.first, *paired.second)),
        paired.failed,
        f"median ratio {ratio:.3f} {_interval(ratios)} of {len(ratios)} blocks; "
        f"{first:.1f} and {second:.1f} ms",
        f"<= {NEARLY_FREE:g}",
        paired.failed == 0 and not paired.is_client_bound and ratio <= NEARLY_FREE,
        "client-bound" if paired.is_client_bound else "",
    )


def judge_in_flight(waiting: Mapping[str, float]) -> Verdict:
    """No replica works for clients that have gone.

    Args:
        waiting: requests in work by replica, when nobody asks any more.
    """
    busy = {name: count for name, count in waiting.items() if count > 0}
    return Verdict(
        "in-flight work returns to 0",
        len(waiting),
        len(busy),
        f"{sum(busy.values()):g} in work" + (f" in {sorted(busy)}" if busy else ""),
        "0 in work",
        bool(waiting) and not busy,
        "" if waiting else "no replica said how much it has in work",
    )


def judge_tries(shots: pl.DataFrame, note: str) -> list[Verdict]:
    """Deaths cost few first tries, and a second one always succeeds."""
    first = shots.filter(pl.col("first_status") != OK).height
    share = 1 - first / max(shots.height, 1)
    again = shots.filter(pl.col("status") != OK)
    causes = sorted({f"{s}" for s in shots["first_status"] if s != OK})
    return [
        Verdict(
            "first try",
            shots.height,
            first,
            f"{share:.4%} succeed" + (f"; failures: {causes}" if causes else ""),
            f">= {FIRST_TRY:.1%}",
            share >= FIRST_TRY,
            note,
        ),
        Verdict(
            "with one retry",
            shots.height,
            again.height,
            f"{1 - again.height / max(shots.height, 1):.4%} succeed",
            "100 %",
            again.height == 0 and shots.height > 0,
        ),
    ]


def judge_fallback(
    check: str,
    shots: pl.DataFrame,
    stage: str,
    deadline_ms: float,
    allowance_ms: float = 0.0,
) -> Verdict:
    """With a stage broken, every request is answered in time and says so.

    Args:
        check: name of the fault.
        shots: requests sent while the fault was there.
        stage: what every `fallback_reason` must name.
        deadline_ms: time that the requests gave, counted from when they were sent.
        allowance_ms: for the way there and back, and for a client that shares the
            machine: the service counts from when the body is whole.
    """
    took, most_ms = pl.col("latency_ms") - pl.col("lag_ms"), deadline_ms + allowance_ms
    late = shots.filter((pl.col("status") == OK) & (took > most_ms)).height
    unanswered = shots.filter(pl.col("status") != OK).height
    is_flagged = (
        pl.col("fallback").fill_null("").str.contains(f"{stage}_", literal=True)
    )
    silent = shots.filter((pl.col("status") == OK) & ~is_flagged).height
    bad = shots.filter((pl.col("status") != OK) | (took > most_ms) | ~is_flagged)
    reasons = sorted(set(shots["fallback"].drop_nulls()))
    more = f" + {allowance_ms:g}" if allowance_ms else ""
    return Verdict(
        check,
        shots.height,
        bad.height,
        f"{unanswered} unanswered, {late} late, {silent} not flagged; "
        f"{latency_of(shots)}; reasons {reasons}",
        f"all within {deadline_ms:g}{more} ms, flagged {stage}_*",
        bad.height == 0 and shots.height > 0,
    )


def judge_log(
    check: str, answered: Sequence[str], logged: Mapping[str, int], *, num_ads: int,
    dropped: int = 0, note: str = "",
) -> Verdict:  # fmt: skip
    """Every answered decision is in the log exactly once, or counted as dropped.

    Args:
        check: its name.
        answered: ids of the requests that clients got an answer to.
        logged: rows in the log by request id.
        num_ads: decisions that each request asks for.
        dropped: decisions that the service counted as dropped.
        note: what was done to the service meanwhile.
    """
    missing = sum(max(num_ads - logged.get(one, 0), 0) for one in answered)
    twice = sum(max(logged.get(one, 0) - num_ads, 0) for one in answered)
    lost = max(missing - dropped, 0)
    unseen = len(set(logged) - set(answered))
    return Verdict(
        check,
        num_ads * len(answered),
        lost + twice,
        f"{lost} decisions lost, {twice} written twice, {dropped} counted as dropped; "
        f"{unseen} requests logged whose client saw no answer",
        "0 lost, 0 twice",
        lost + twice == 0 and len(answered) > 0,
        note,
    )


def judge_memory(
    series: Mapping[str, Sequence[float]], num_requests: int, *, warm_up: float = 0.2
) -> Verdict:
    """No actor grows once it is warm.

    Args:
        series: resident bytes by actor, at even distances over the run.
        num_requests: sent meanwhile.
        warm_up: share of the samples that does not count.
    """
    growth = {name: _growth(values, warm_up) for name, values in series.items()}
    grown = {name: rise for name, rise in growth.items() if not rise <= GROWTH}
    each = ", ".join(f"{name} {rise:+.1%}" for name, rise in sorted(growth.items()))
    return Verdict(
        f"resident memory over {num_requests:,} requests",
        len(growth),
        len(grown),
        each or "no actor",
        f"<= +{GROWTH:.0%} each",
        bool(growth) and not grown,
    )


def judge_survival(
    check: str, outcomes: Sequence[tuple[str, int]], *, restarted: Sequence[str] = (),
    note: str = "",
) -> Verdict:  # fmt: skip
    """Nothing that is sent crashes the service or hangs.

    Args:
        check: its name.
        outcomes: name of each request and its status, 0 = no answer in time.
        restarted: actors that were not the same after.
        note: seeds.
    """
    hung = [name for name, status in outcomes if status == NO_ANSWER]
    crashed = [
        f"{name} ({status})"
        for name, status in outcomes
        if status >= 500 and status != SHED
    ]
    bad = [*crashed, *(f"{name} (no answer)" for name in hung)]
    return Verdict(
        check,
        len(outcomes),
        len(bad),
        f"{len(crashed)} answers >= 500, {len(hung)} hung, {len(restarted)} actors "
        f"restarted" + (f": {bad[:5]}" if bad else ""),
        "0, 0, 0",
        not bad and not restarted and len(outcomes) > 0,
        note,
    )


def lag_note(shots: pl.DataFrame) -> str:
    """Return how late the client itself was, in words."""
    lag = latency_of(shots).client_lag_ms["p99"]
    return f"client lag p99 {lag:.1f} ms"


def _interval(ratios: Sequence[float]) -> str:
    """Return where the median of such blocks lies, in words."""
    if len(ratios) < 2:
        return "[?]"
    found = stats.bootstrap(
        (ratios,), np.median, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return f"95 % [{found.low:.2f}, {found.high:.2f}]"


def _growth(values: Sequence[float], warm_up: float) -> float:
    """Return the rise from the tenth after the warm-up to the last tenth."""
    warm = np.asarray(values[int(warm_up * len(values)) :], float)
    tenth = max(len(warm) // 10, 1)
    if len(warm) < 2:
        return float("nan")
    return float(np.median(warm[-tenth:]) / np.median(warm[:tenth]) - 1)
