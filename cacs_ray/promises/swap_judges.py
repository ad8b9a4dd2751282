"""Judges swaps of releases: pure, as `judges`."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import polars as pl

from cacs_ray.promises.judges import OK, lag_note
from cacs_ray.promises.latency import latency_of
from cacs_ray.promises.verdict import Verdict
from cacs_ray.schema import Column

STEADY: Final = 1.2
_SAME: Final = 1e-6
EARLY_S: Final = 0.5
"""Before a swap: what waits when it begins waits longer, and clocks differ a little."""


def halves(
    shots: pl.DataFrame, asked_s: Sequence[float], half_s: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the requests of the time after a swap was asked for, and the others.

    Args:
        shots: of the whole run.
        asked_s: when each swap was asked for, seconds since the run began.
        half_s: of the time after it; it begins `EARLY_S` before that moment.
    """
    is_after = np.zeros(shots.height, bool)
    scheduled_s = shots["scheduled_s"].to_numpy()
    for moment_s in asked_s:
        from_s = moment_s - EARLY_S
        is_after |= (scheduled_s >= from_s) & (scheduled_s < from_s + half_s)
    return shots.filter(is_after), shots.filter(~is_after)


def judge_steady(
    after: pl.DataFrame, away: pl.DataFrame, before: pl.DataFrame
) -> Verdict:
    """What happens meanwhile hardly shows in the latencies.

    Args:
        after: requests of the time after each swap was asked for.
        away: those between them, in the same minutes: a machine that is shared changes
            its pace from one minute to the next.
        before: of the minutes before, told beside it.
    """
    p99, usual, earlier = (
        latency_of(shots).quantiles_ms["p99"] for shots in (after, away, before)
    )
    most_ms = STEADY * usual
    return Verdict(
        "p99 after swaps",
        after.height,
        after.filter(pl.col("latency_ms") > most_ms).height,
        f"p99 {p99:.1f} ms, between them {usual:.1f} ms: x {p99 / usual:.2f}; in the "
        f"minutes before {earlier:.1f} ms",
        f"<= {STEADY:g} x that between them",
        bool(p99 <= most_ms),
        lag_note(after),
    )


def judge_swaps(
    asked: Sequence[tuple[str, bool]], loads: Sequence[bool], count: int
) -> Verdict:
    """All that was asked of an operator's routes went as it must, by real loads.

    Args:
        asked: what, and whether it went so.
        loads: of each swap under load, whether its bundle had to be loaded.
        count: swaps that there must have been under load, > 0.
    """
    failed = [what for what, is_so in asked if not is_so]
    told = f"went wrong: {failed}" if failed else "all went as asked"
    missing = count - sum(loads)
    return Verdict(
        "swaps, refusal, rollback",
        len(asked) + max(0, count - len(loads)),
        len(failed) + missing,
        f"{told}; {sum(loads)} of {count} swaps under load that had to load theirs",
        "0 failed, each loaded",
        not failed and missing == 0,
        "; ".join(what for what, _ in asked[-2:]),
    )


def judge_swap_times(took_s: Sequence[float], most_s: float) -> Verdict:
    """A swap is over before the time that it is compared with begins.

    Args:
        took_s: from asking for each swap until it was seen live.
        most_s: from asking until the time between swaps begins, see `halves`.
    """
    late = [seconds for seconds in took_s if seconds > most_s]
    longest_s = max(took_s, default=float("nan"))
    return Verdict(
        "a swap is over within its half of the time",
        len(took_s),
        len(late),
        f"longest {longest_s:.1f} s",
        f"<= {most_s:.1f} s",
        bool(took_s) and not late,
    )


def judge_whole_answers(
    shots: pl.DataFrame, expected: Mapping[str, Mapping[int, str]]
) -> Verdict:
    """Every answer is, from end to end, that of the release it names.

    Answers with a fallback are counted, but not compared: they say that they differ.

    Args:
        shots: with placements, in the order of the schedule.
        expected: bundle id -> index of the body -> its placements as JSON. Bodies
            repeat after as many requests as there are indices.
    """
    answered = shots.with_row_index("number").filter(pl.col("status") == OK)
    whole = answered.filter(pl.col("fallback").is_null())
    mixed, seen = 0, dict.fromkeys(expected, 0)
    for number, release, placements in whole.select(
        "number", "answered_as", "placements"
    ).iter_rows():
        known = expected.get(release, {})
        is_own = bool(known) and _are_close(placements, known[number % len(known)])
        mixed += not is_own
        seen[release] = seen.get(release, 0) + 1
    each = ", ".join(f"{count} by {release}" for release, count in seen.items())
    return Verdict(
        "no answer mixes releases",
        whole.height,
        mixed,
        f"{mixed} differ from what their release answers; {each}; "
        f"{answered.height - whole.height} fallbacks not compared",
        "0 mixed",
        mixed == 0 and whole.height > 0,
    )


def _are_close(one: str, other: str) -> bool:
    """Compare placements: names exactly, numbers to six digits."""
    first, second = json.loads(one), json.loads(other)
    return len(first) == len(second) and all(
        a.keys() == b.keys()
        and all(
            math.isclose(a[name], b[name], rel_tol=_SAME)
            if isinstance(a[name], float) and isinstance(b[name], float)
            else a[name] == b[name]
            for name in a
            if name != Column.PRICE_MICROS
        )
        for a, b in zip(first, second, strict=True)
    )
