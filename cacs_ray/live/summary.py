"""Outcomes of loops -> means over seeds, intervals, paired differences, curves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cacs_ray.live.figures import Figures, add_up, day_rates
from cacs_ray.live.plan import GREEDY, ORACLE
from cacs_ray.study.summary import interval, summarise

LAST_DAYS: Final = 2
"""How many days at the end stand for what a loop has come to."""

Outcomes = Mapping[int, Mapping[str, Any]]
"""Day -> outcome of a loop, as of `live.loop`."""


@dataclass(frozen=True, slots=True)
class SeedOutcome:
    """All loops of one seed."""

    oracle: Mapping[int, Figures]
    """Day -> sums of what the oracle decides."""
    arms: dict[str, Outcomes]


def summarise_live(found: Mapping[int, SeedOutcome], level: float) -> dict[str, Any]:
    """Summarise loops over seeds.

    Args:
        found: seed -> its loops; all have the same days and arms.
        level: of the intervals.

    Returns:
        `days`; `arms`: arm -> figure -> `value`, `low`, `high`, `seeds` and, but for
        greedy, `less` (the arm less greedy, paired by seed); `oracle` is one of them.
        `curves`: figure -> arm -> one interval a day, of `cumulative` (clicks so far
        less those of greedy), `regret` (so far, share of the oracle's clicks),
        `true_ctr` and `found` (of the day); `ages`: arm -> age in days -> share of
        new best creatives found, over all seeds, with how many there were.
    """
    days = sorted(next(iter(found.values())).oracle)
    with_oracle = {seed: _with_oracle(one) for seed, one in found.items()}
    names = list(next(iter(with_oracle.values())))
    cells = {
        name: {
            seed: arm_figures([arms[name][d] for d in days], one_day, days)
            for seed, (arms, one_day) in _paired(with_oracle, found).items()
        }
        for name in names
    }
    return {
        "days": days,
        "arms": summarise(cells, level, reference=GREEDY),
        "seeds": {n: {str(s): f for s, f in cell.items()} for n, cell in cells.items()},
        "curves": {
            figure: {
                name: _curve(with_oracle, found, name, (days, of, level))
                for name in names
            }
            for figure, of in _CURVES.items()
        },
        "ages": {name: _ages(with_oracle, name) for name in names},
    }


def arm_figures(
    outcomes: Sequence[Mapping[str, Any]],
    oracle: Mapping[int, Figures],
    days: Sequence[int],
) -> Figures:
    """Return the rates of one loop over all days, and `last/` over the last ones.

    `promoted` is the share of days whose release passed the gate.
    """
    sums = [one["figures"] for one in outcomes]
    best = [oracle[day] for day in days]
    last = day_rates(add_up(sums[-LAST_DAYS:]), add_up(best[-LAST_DAYS:]))
    figures = day_rates(add_up(sums), add_up(best))
    figures |= {f"last/{name}": value for name, value in last.items()}
    promoted = [one["is_promoted"] for one in outcomes if "is_promoted" in one]
    if promoted:
        figures["promoted"] = float(np.mean(promoted))
    return figures


def _with_oracle(one: SeedOutcome) -> dict[str, Outcomes]:
    oracle = {day: {"figures": sums} for day, sums in one.oracle.items()}
    return {**one.arms, ORACLE: oracle}


def _paired(
    with_oracle: Mapping[int, Mapping[str, Outcomes]], found: Mapping[int, SeedOutcome]
) -> dict[int, tuple[Mapping[str, Outcomes], Mapping[int, Figures]]]:
    return {seed: (arms, found[seed].oracle) for seed, arms in with_oracle.items()}


Sums = Sequence[Figures]
_OfDay = Callable[[Sums, Sums, Sums], float]


def _cumulative(own: Sums, greedy: Sums, _: Sums) -> float:
    return sum(o["clicks"] - g["clicks"] for o, g in zip(own, greedy, strict=True))


def _regret(own: Sums, _: Sums, oracle: Sums) -> float:
    return day_rates(add_up(list(own)), add_up(list(oracle)))["regret"]


def _true_ctr(own: Sums, _: Sums, oracle: Sums) -> float:
    return day_rates(own[-1], oracle[-1])["true_ctr"]


def _found(own: Sums, _: Sums, oracle: Sums) -> float:
    return day_rates(own[-1], oracle[-1]).get("found", float("nan"))


_CURVES: Final[Mapping[str, _OfDay]] = {
    "cumulative": _cumulative,
    "regret": _regret,
    "true_ctr": _true_ctr,
    "found": _found,
}


def _curve(
    with_oracle: Mapping[int, Mapping[str, Outcomes]],
    found: Mapping[int, SeedOutcome],
    name: str,
    how: tuple[Sequence[int], _OfDay, float],
) -> list[dict[str, float]]:
    """Return one interval over seeds for every day; NaN without greedy."""
    days, of, level = how
    points = []
    for until in range(1, len(days) + 1):
        values = []
        for seed, arms in with_oracle.items():
            reference = arms.get(GREEDY)
            if of is _cumulative and reference is None:
                continue
            first = days[:until]
            own = [arms[name][d]["figures"] for d in first]
            greedy = [(reference or arms[name])[d]["figures"] for d in first]
            values.append(of(own, greedy, [found[seed].oracle[d] for d in first]))
        points.append(interval(values, level))
    return points


def _ages(
    with_oracle: Mapping[int, Mapping[str, Outcomes]], name: str
) -> dict[str, dict[str, float]]:
    """Add up by age what was found, over seeds and days."""
    sums = add_up(
        [one["figures"] for arms in with_oracle.values() for one in arms[name].values()]
    )
    ages = sorted(
        int(key.removeprefix("findable/age "))
        for key in sums
        if key.startswith("findable/age ")
    )
    return {
        str(age): {
            "found": sums[f"found/age {age}"] / sums[f"findable/age {age}"],
            "findable": sums[f"findable/age {age}"],
        }
        for age in ages
    }
