"""A day's decisions -> what they were truly worth, and what was found.

N candidate rows    C creatives per list    K creatives of the market
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cacs_ray.live.day import true_ctr
from cacs_ray.schema import Column
from cacs_ray.simulation.market import DAY_US, START_US, Market
from cacs_ray.simulation.value import candidate_lists, list_probabilities

Figures = dict[str, float]
"""Names to numbers; what a day cannot give is not there."""

FEWEST_SHOWN: Final = 10
"""An ad that was shown less often on a day does not tell its favourite."""
_STREAM: Final = 6
_USERS: Final = 300


def day_figures(market: Market, day: int, decisions: pa.Table) -> Figures:
    """Value the decisions of a day by the truth.

    Args:
        market: the truth.
        day: which day, as the market counts.
        decisions: all candidate rows in `schema.DECISIONS`, with `device`.

    Returns:
        Sums over the day: `impressions`, `clicks` (expected), `revenue` (expected,
        currency), `value` (expected clicks x bids, currency), `new_impressions` (of
        creatives born since the log ended); `won`, `winnable` (of each candidate
        ad's list in slot 0: chosen less random and best less random CTR) and
        `won_new`, `winnable_new` (lists whose best creative is new); `found`,
        `findable`, as of `found_creatives`.
    """
    is_shown = pc.is_valid(decisions[Column.SLOT])
    shown = decisions.filter(is_shown)
    p = true_ctr(market, shown, shown[Column.SLOT].to_numpy())
    creative = market.creative_rows(shown[Column.CREATIVE_ID])
    found, findable = found_creatives(market, day, creative)
    return {
        "impressions": float(len(p)),
        "clicks": float(p.sum()),
        "revenue": float(p @ shown[Column.PRICE_MICROS].to_numpy()) / 1e6,
        "value": float(p @ shown[Column.BID_MICROS].to_numpy()) / 1e6,
        "new_impressions": float(is_new(market)[creative].sum()),
        **_choice_sums(market, decisions),
        "found": float(found.sum()),
        "findable": float(len(found)),
        **{
            f"{name}/age {int(age)}": float(number)
            for age in np.unique(findable)
            for name, number in (
                ("found", found[findable == age].sum()),
                ("findable", (findable == age).sum()),
            )
        },
    }


def found_creatives(
    market: Market, day: int, shown: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tell which new best creatives get the most impressions of their ad.

    A creative counts when it lives the whole day, is the best of those of its ad by
    its mean true CTR over users, and was born after the log; ads with less than
    `FEWEST_SHOWN` impressions are left out, and those without a rival.

    Args:
        market: the truth.
        day: which day.
        shown: int [impressions]: creative rows.

    Returns:
        bool [new best creatives], True = found, and their age in whole days.
    """
    start = START_US + day * DAY_US
    lives = (market.live_from_us <= start) & (market.live_until_us >= start + DAY_US)
    impressions = np.bincount(shown, minlength=len(lives))
    quality = np.where(lives, mean_ctr(market), -1.0)
    is_young = is_new(market)
    found, ages = [], []
    for first, last in zip(market.ad_first[:-1], market.ad_first[1:], strict=True):
        best = first + int(quality[first:last].argmax())
        own = impressions[first:last]
        if lives[first:last].sum() < 2 or own.sum() < FEWEST_SHOWN:
            continue
        if is_young[best]:
            found.append(bool(impressions[best] == own.max()))
            ages.append((start - int(market.live_from_us[best])) // DAY_US)
    return np.array(found, bool), np.array(ages, np.int64)


def is_new(market: Market) -> np.ndarray:
    """Bool [K]: born after the log."""
    end: np.ndarray = market.live_from_us >= (
        START_US + market.recipe.traffic.num_days * DAY_US
    )
    return end


def mean_ctr(market: Market) -> np.ndarray:
    """Return each creative's true CTR in slot 0 over a sample of users, float64 [K]."""
    rng = np.random.default_rng([market.seed, _STREAM])
    weight = market.user_weight / market.user_weight.sum()
    users = rng.choice(len(weight), _USERS, p=weight)
    size = len(market.creative_ad)
    sums = np.zeros(size)
    for user in users:
        row = np.full(size, user)
        none = np.zeros(size, np.int64)
        sums += market.probability(row, np.arange(size), none, none)
    return sums / _USERS


def day_rates(sums: Mapping[str, float], oracle: Mapping[str, float]) -> Figures:
    """Turn sums, of one day or of several, into rates.

    Args:
        sums: sums of `day_figures`.
        oracle: those of the oracle on the same days.

    Returns:
        `true_ctr`, `rpm`, `ecpm` (value of 1000 impressions), `regret` (share of the
        oracle's CTR that is missed), `regret_value` (of its value), `gain` and
        `gain_new` (0 random, 1 best), `new_share`, `found`, `regret_clicks`.
    """
    rates = {
        "true_ctr": _ratio(sums["clicks"], sums["impressions"]),
        "rpm": 1000 * _ratio(sums["revenue"], sums["impressions"]),
        "ecpm": 1000 * _ratio(sums["value"], sums["impressions"]),
        "new_share": _ratio(sums["new_impressions"], sums["impressions"]),
        "gain": _ratio(sums["won"], sums["winnable"]),
        "gain_new": _ratio(sums["won_new"], sums["winnable_new"]),
        "found": _ratio(sums["found"], sums["findable"]),
        "regret": 1 - _ratio(sums["clicks"], oracle["clicks"]),
        "regret_value": 1 - _ratio(sums["value"], oracle["value"]),
        "regret_clicks": oracle["clicks"] - sums["clicks"],
    }
    return {name: rate for name, rate in rates.items() if np.isfinite(rate)}


def add_up(days: list[dict[str, Any]]) -> Figures:
    """Add the sums of several days; what one of them lacks counts as 0 there."""
    names = sorted({name for day in days for name in day})
    return {name: float(sum(day.get(name, 0.0) for day in days)) for name in names}


def _choice_sums(market: Market, decisions: pa.Table) -> Figures:
    """Value the choice inside every candidate ad, shown or not."""
    first = pa.array(np.zeros(decisions.num_rows, np.int32))
    place = decisions.column_names.index(Column.SLOT)
    table = decisions.set_column(place, Column.SLOT, first)
    lists = candidate_lists(market, table)
    p = list_probabilities(market, table, lists)
    rows = np.arange(len(p))
    chosen = lists == market.creative_rows(table[Column.CREATIVE_ID])[:, None]
    mean, best = np.nanmean(p, axis=1), np.nanargmax(p, axis=1)
    won = p[rows, chosen.argmax(axis=1)] - mean
    winnable = p[rows, best] - mean
    is_best_new = is_new(market)[lists[rows, best]]
    return {
        "won": float(won.sum()),
        "winnable": float(winnable.sum()),
        "won_new": float(won[is_best_new].sum()),
        "winnable_new": float(winnable[is_best_new].sum()),
    }


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("nan")
