"""A live test from its decision log: which arm earns more, and whether that is sure.

An arm is a release with a policy, as each decision names them. Users are split
between arms and stay there, so intervals are those of users; an unknown visitor is a
user of one page view. Fallback answers are part of their arm, as users saw them.

    L  looks at the growing log     U  users of an arm     6  see `ratio_moments`
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.data.feedback import count_clicks, join_feedback
from cacs_ray.errors import InputError
from cacs_ray.evaluation import arm_pairs
from cacs_ray.metrics.sequential import (
    fixed_radius,
    ratio_estimate,
    ratio_moments,
    sample_ratio_p_value,
)
from cacs_ray.schema import Column

Figures = dict[str, Any]

ARM_METRICS: Final = {
    "ctr": ("clicks", "impressions", 1.0),
    "rpm_micros": ("revenue_micros", "impressions", 1000.0),
    "page_rpm_micros": ("revenue_micros", "page_views", 1000.0),
}
"""Name -> numerator, denominator, and what their ratio is multiplied with."""

MISMATCH_P_VALUE: Final = 0.001
"""Below it a split is called wrong: once in a thousand sound tests."""

CONCURRENT_SHARE: Final = 0.9
"""Below it a pair is called one after the other."""

_COUNTS: Final = ("page_views", "impressions", "clicks", "revenue_micros")
_MOST_LOOKS: Final = 10_000
_ARM, _UNIT, _LOOK, _TS = "arm", "unit", "look", "ts_us"


class ArmSettings(Config):
    """How arms are compared; fixed before the test is looked at."""

    attribution_window_s: float = Field(default=1800.0, gt=0)
    """Seconds in which a click counts."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Probability of a false alarm; shared evenly by the pairs of arms."""
    look_s: float = Field(default=3600.0, gt=0)
    """Seconds between looks, counted from the first request."""
    min_clicks: int = Field(default=50, ge=1)
    """Clicks that each arm of a pair needs before its first look counts."""
    planned_clicks: int = Field(default=5000, ge=1)
    """Clicks of a pair at which its sequence shall be narrowest."""


def compare_arms(
    decisions: pa.Table,
    clicks: pa.Table,
    settings: ArmSettings | None = None,
    *,
    arms: Sequence[str] | None = None,
    shares: Sequence[float] | None = None,
) -> Figures:
    """Compare the arms of a live test.

    Args:
        decisions: in `schema.DECISIONS`; not shown candidates count for nothing,
            page views that showed nothing count as page views.
        clicks: in `schema.CLICKS`. Page views younger than the window may still
            get clicks: in all arms alike.
        settings: window, alpha and looks.
        arms: `release/policy` of each, the one to compare with first; None = all
            that are in the log, by name.
        shares: configured share of users of each arm, in their order.

    Returns:
        A tree for a report: `arms` by name (counts, `metrics` with intervals of one
        look), `sample_ratio` (None without shares), `users_in_several_arms`, and
        `pairs`, each as `arm_pairs.compare_pair` returns it, with
        `concurrent_share`: the share of its page views while both arms served. Far
        from 1 the arms followed each other, and differ by their days.

    Raises:
        InputError: no decisions, fewer than two arms, an arm that is not in the
            log, shares that do not fit, a shown row without a price, or more than
            10,000 looks.
    """
    settings = settings or ArmSettings()
    views = _page_views(decisions, clicks, settings)
    names = _arm_names(views, arms)
    _check_shares(names, shares)
    views = views.filter(pl.col(_ARM).is_in(names))
    start_us, end_us = _range_us(views)
    looks, times = _looks(views, settings)
    moments = {
        name: _moments_by_look(looks.filter(pl.col(_ARM) == name), len(times))
        for name in names
    }
    pairs = list(combinations(names, 2))
    plan = arm_pairs.Plan(
        alpha=settings.alpha / len(pairs),
        min_clicks=settings.min_clicks,
        planned_clicks=settings.planned_clicks,
    )
    window = {"attribution_window_s": settings.attribution_window_s}
    return {
        "settings": settings.model_dump(),
        "start_us": start_us,
        "end_us": end_us,
        "clicks": count_clicks(decisions, clicks, **window).model_dump(),
        "arms": {name: _arm(views, moments[name], name, settings) for name in names},
        "sample_ratio": _sample_ratio(views, names, shares),
        "users_in_several_arms": _shared_users(views),
        "pair_alpha": plan.alpha,
        "pairs": [
            {
                "concurrent_share": _concurrent_share(views, (first, second)),
                **arm_pairs.compare_pair(
                    (first, second), (moments[first], moments[second]), times, plan
                ),
            }
            for first, second in pairs
        ],
    }


def _page_views(
    decisions: pa.Table, clicks: pa.Table, settings: ArmSettings
) -> pl.DataFrame:
    """Return one row per arm and request: its user, time and what it brought."""
    if decisions.num_rows == 0:
        raise InputError("the log holds no decisions", rule="empty_log")
    impressions = join_feedback(
        decisions, clicks, attribution_window_s=settings.attribution_window_s
    )
    names = [
        Column.REQUEST_ID,
        Column.REQUEST_TS,
        Column.USER_ID,
        Column.SLOT,
        Column.PRICE_MICROS,
        Column.RELEASE,
        Column.POLICY,
        Column.IS_FALLBACK,
    ]
    rows = pl.DataFrame(decisions.select(names))
    is_shown = pl.col(Column.SLOT).is_not_null()
    if rows.filter(is_shown)[Column.PRICE_MICROS].null_count():
        raise InputError(
            "a shown row has no price", field=Column.PRICE_MICROS, rule="missing_price"
        )
    # Impressions keep the order of the shown decisions.
    clicked = np.zeros(rows.height)
    clicked[rows.select(is_shown).to_series().to_numpy()] = (
        impressions[Column.IS_CLICKED].cast(pa.float64()).to_numpy()
    )
    arm = pl.concat_str([Column.RELEASE, Column.POLICY], separator="/")
    return (
        rows.with_columns(arm.alias(_ARM), pl.Series("is_click", clicked))
        .group_by(_ARM, Column.REQUEST_ID)
        .agg(
            pl.col(Column.USER_ID).first(),
            pl.col(Column.REQUEST_TS).min().dt.epoch("us").alias(_TS),
            pl.col(Column.IS_FALLBACK).any().alias("is_fallen"),
            pl.lit(1.0).alias("page_views"),
            is_shown.sum().cast(pl.Float64).alias("impressions"),
            pl.col("is_click").sum().alias("clicks"),
            (pl.col("is_click") * pl.col(Column.PRICE_MICROS))
            .sum()
            .alias("revenue_micros"),
        )
        .with_columns(_user_number())
    )


def _user_number() -> pl.Expr:
    """Number users from 0; an unknown visitor is one for this page view alone."""
    visitor = pl.when(pl.col(Column.USER_ID).is_null()).then(pl.col(Column.REQUEST_ID))
    unit = pl.struct(pl.col(Column.USER_ID), visitor.alias("visitor"))
    return (unit.rank("dense") - 1).cast(pl.Int64).alias(_UNIT)


def _arm_names(views: pl.DataFrame, arms: Sequence[str] | None) -> list[str]:
    known = sorted(views[_ARM].unique())
    names = list(arms) if arms else known
    for name in names:
        if name not in known:
            raise InputError(
                f"no arm {name!r} in the log, only {', '.join(map(repr, known))}",
                source="--arms",
                rule="known_arm",
            )
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise InputError(
            f"needs two different arms, got {', '.join(map(repr, names))}",
            source="--arms",
            rule="two_arms",
        )
    return names


def _check_shares(names: Sequence[str], shares: Sequence[float] | None) -> None:
    if shares is None:
        return
    if len(shares) != len(names) or not all(0 < share < np.inf for share in shares):
        raise InputError(
            f"{list(shares)} are not {len(names)} positive shares, of "
            f"{', '.join(map(repr, names))}",
            source="--shares",
            rule="share_of_each_arm",
        )


def _looks(
    views: pl.DataFrame, settings: ArmSettings
) -> tuple[pl.DataFrame, list[int]]:
    """Return sums per arm, user and look, and when each look is, in microseconds."""
    first, step = _range_us(views)[0], round(settings.look_s * 1e6)
    number = ((pl.col(_TS) - first) // step).alias(_LOOK)
    looks = (
        views.with_columns(number)
        .group_by(_ARM, _UNIT, _LOOK)
        .agg(pl.col(name).sum() for name in _COUNTS)
    )
    size = int(looks[_LOOK].to_numpy().max()) + 1
    if size > _MOST_LOOKS:
        raise InputError(
            f"{size} looks of {settings.look_s:g} s, at most {_MOST_LOOKS}: "
            "look more seldom",
            source="--look-s",
            rule="too_many_looks",
        )
    return looks, [first + step * (look + 1) for look in range(size)]


def _moments_by_look(looks: pl.DataFrame, size: int) -> dict[str, np.ndarray]:
    """Return float64 [L, 6] per metric: an arm's moments as of the end of each look.

    Moments are moved by those users alone who came in a look.
    """
    rows = looks.sort(_LOOK)
    _, unit = np.unique(rows[_UNIT].to_numpy(), return_inverse=True)
    ends = np.searchsorted(rows[_LOOK].to_numpy(), np.arange(size + 1))
    moments = {}
    for metric, (numerator, denominator, factor) in ARM_METRICS.items():
        added = np.stack([factor * rows[numerator], rows[denominator]], axis=1)
        sums = np.zeros((int(unit.max(initial=-1)) + 1, 2))
        has_come = np.zeros(len(sums), bool)
        total, by_look = np.zeros(6), np.empty((size, 6))
        for look in range(size):
            now = slice(ends[look], ends[look + 1])
            before = sums[unit[now]]
            after = before + added[now]
            sums[unit[now]] = after
            change = ratio_moments(after) - ratio_moments(before)
            change[0] = np.sum(~has_come[unit[now]])
            has_come[unit[now]] = True
            total = total + change
            by_look[look] = total
        moments[metric] = by_look
    return moments


def _arm(
    views: pl.DataFrame,
    moments: dict[str, np.ndarray],
    name: str,
    settings: ArmSettings,
) -> Figures:
    rows = views.filter(pl.col(_ARM) == name)
    metrics = {}
    for metric, by_look in moments.items():
        one = ratio_estimate(by_look[-1])
        radius = fixed_radius(one, settings.alpha)
        metrics[metric] = {
            "value": float(one.value),
            "low": float(one.value - radius),
            "high": float(one.value + radius),
        }
    return {
        **{count: float(rows[count].sum()) for count in _COUNTS},
        "users": rows[_UNIT].n_unique(),
        "unknown_visitors": rows[Column.USER_ID].null_count(),
        "fallback_share": float(rows["is_fallen"].cast(pl.Float64).to_numpy().mean()),
        "metrics": metrics,
    }


def _sample_ratio(
    views: pl.DataFrame, names: Sequence[str], shares: Sequence[float] | None
) -> Figures | None:
    if shares is None:
        return None
    users = [views.filter(pl.col(_ARM) == name)[_UNIT].n_unique() for name in names]
    p_value = sample_ratio_p_value(np.array(users, float), np.array(shares, float))
    return {
        "users": dict(zip(names, users, strict=True)),
        "shares": dict(zip(names, shares, strict=True)),
        "p_value": p_value,
        "is_mismatch": p_value < MISMATCH_P_VALUE,
    }


def _concurrent_share(views: pl.DataFrame, pair: tuple[str, str]) -> float:
    """Return the share of a pair's page views while both arms served."""
    rows = views.filter(pl.col(_ARM).is_in(pair))
    spans = [_range_us(rows.filter(pl.col(_ARM) == name)) for name in pair]
    start, end = max(span[0] for span in spans), min(span[1] for span in spans)
    return float(np.mean(rows[_TS].is_between(start, end).to_numpy()))


def _shared_users(views: pl.DataFrame) -> Figures:
    """Count users that are in more than one arm: their split was not sticky."""
    arms = views.group_by(_UNIT).agg(pl.col(_ARM).n_unique())[_ARM]
    shared = int((arms > 1).sum())
    return {"users": shared, "share": shared / len(arms)}


def _range_us(views: pl.DataFrame) -> tuple[int, int]:
    """Return when the first and the last page view were, in microseconds."""
    times = views[_TS].to_numpy()
    return int(times.min()), int(times.max())
