"""A policy known by its probabilities, valued from the log of another policy.

    N  impressions     K  creatives the target may show     F  folds

An estimate stands only where logging supports the target. With thin support the
answer is a refusal with its reason, never a number with a hidden doubt. What the
estimates cannot see is said in `metrics.off_policy`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.errors import InputError
from cacs_ray.metrics.intervals import (
    cluster_bootstrap,
    pool_clusters,
    ratio_intervals,
    sum_by_cluster,
)
from cacs_ray.metrics.off_policy import effective_sample_size
from cacs_ray.schema import Column

Figures = dict[str, Any]

_SUM_TOLERANCE = 1e-6


class OffPolicySettings(Config):
    """How a policy is valued and when the answer is a refusal."""

    min_effective_sample: float = Field(default=100.0, gt=0)
    """Impressions, after weighting, that an estimate needs."""
    min_matched_clicks: float = Field(default=10.0, ge=0)
    """Clicks on creatives that the target may show."""
    max_unsupported_share: float = Field(default=0.05, ge=0, le=1)
    """Share of the target's decisions whose creative the log never shows."""
    prior_impressions: float = Field(default=100.0, gt=0)
    """Strength of the mean CTR in the model of the doubly robust estimate."""
    folds: int = Field(default=5, ge=2)
    """The model of a row is made without the row's own fold."""
    replicates: int = Field(default=1000, ge=100)
    level: float = Field(default=0.95, gt=0, lt=1)
    seed: int = 0


def value_policy_from_log(
    log: pa.Table, target: pa.Table, settings: OffPolicySettings | None = None
) -> Figures:
    """Estimate the CTR that a target policy would have on the ads of a log.

    Args:
        log: impressions with request_id, ad_id, creative_id, is_clicked and
            propensity; weight is optional.
        target: ad_id, creative_id and propensity, here P(creative | ad) of the
            target; sums to one over the creatives of each ad in the log. Creatives
            that are absent have probability 0.
        settings: thresholds of support, folds, bootstrap.

    Returns:
        `status` "ok" or "refused", `reason` (None or why), `impressions`,
        `matched_clicks`, `effective_sample_size`, `mean_importance` (near 1 when
        the propensities are true), `unsupported_share`, and `estimates`: `ips`,
        `snips` and `dr` with `value`, `low`, `high`, intervals by request; empty
        when refused.

    Raises:
        InputError: the log has no rows or rows without a propensity, or the target
            is not a distribution over the creatives of every ad in the log.
    """
    settings = settings or OffPolicySettings()
    rows = _read_rows(log, target)
    weight, rho = rows.weight, rows.importance
    support = {
        "impressions": float(weight.sum()),
        "matched_clicks": float(weight[rho > 0] @ rows.label[rho > 0]),
        "effective_sample_size": effective_sample_size(rho, weight),
        "mean_importance": float(weight @ rho / weight.sum()),
        "unsupported_share": _unsupported_share(rows),
    }
    reason = refusal(support, settings)
    if reason:
        return {"status": "refused", "reason": reason, **support, "estimates": {}}
    return {
        "status": "ok",
        "reason": None,
        **support,
        "estimates": _estimates(rows, settings),
    }


def compare_with_on_policy(
    off_log: pa.Table,
    on_log: pa.Table,
    target: pa.Table | None = None,
    settings: OffPolicySettings | None = None,
) -> Figures:
    """Value a policy from another policy's log, beside what it really earned.

    The interval is that of the other log's clicks; where the target is itself
    estimated (`target` None), its own sampling error is not in it.

    Args:
        off_log: log of the other policy, for example uniform.
        on_log: log of the target policy itself.
        target: its probabilities, as in `value_policy_from_log`; None = the shares
            with which it shows each creative of an ad in its own log.
        settings: as in `value_policy_from_log`.

    Returns:
        `off_policy`: the answer of `value_policy_from_log`; `on_policy`: the CTR of
        `on_log` with `value`, `low`, `high`, `impressions`, `clicks`;
        `is_on_policy_inside`: per estimator, whether that CTR lies in its interval.

    Raises:
        InputError: as `value_policy_from_log`.
    """
    settings = settings or OffPolicySettings()
    target = logged_shares(on_log) if target is None else target
    off_policy = value_policy_from_log(off_log, target, settings)
    weight, label = _column(on_log, Column.WEIGHT, 1.0), _labels(on_log)
    sums = sum_by_cluster(
        np.column_stack([weight * label, weight]), _clusters(on_log, settings)
    )
    on_policy = ratio_intervals(
        sums,
        replicates=settings.replicates,
        level=settings.level,
        seed=settings.seed,
    ).as_dicts()[0]
    return {
        "off_policy": off_policy,
        "on_policy": {
            **on_policy,
            "impressions": float(weight.sum()),
            "clicks": float(weight @ label),
        },
        "is_on_policy_inside": {
            name: bool(one["low"] <= on_policy["value"] <= one["high"])
            for name, one in off_policy["estimates"].items()
        },
    }


def logged_shares(log: pa.Table) -> pa.Table:
    """Return how a log shares the impressions of each ad among its creatives.

    Returns:
        ad_id, creative_id and propensity: the marginal policy of the log, as a
        target for `value_policy_from_log`.
    """
    weight = pa.array(_column(log, Column.WEIGHT, 1.0))
    shown = pa.table(
        {name: log[name] for name in (Column.AD_ID, Column.CREATIVE_ID)}
        | {Column.WEIGHT: weight}
    )
    pairs = shown.group_by([Column.AD_ID, Column.CREATIVE_ID]).aggregate(
        [(Column.WEIGHT, "sum")]
    )
    ads = pairs[Column.AD_ID].combine_chunks().dictionary_encode().indices.to_numpy()
    mass = pairs[f"{Column.WEIGHT}_sum"].to_numpy()
    share = mass / np.bincount(ads, mass)[ads]
    return pa.table(
        {
            Column.AD_ID: pairs[Column.AD_ID],
            Column.CREATIVE_ID: pairs[Column.CREATIVE_ID],
            Column.PROPENSITY: share,
        }
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """A log and a target policy as arrays."""

    label: np.ndarray
    """float64 [N]"""
    weight: np.ndarray
    """float64 [N]"""
    importance: np.ndarray
    """float64 [N]: target / logging probability of the shown creative."""
    creative: np.ndarray
    """int [N]: row of the target; K = the target never shows it."""
    ad: np.ndarray
    """int [N]: number of the ad in the target."""
    target: np.ndarray
    """float64 [K]: probability of each creative of the target."""
    target_ad: np.ndarray
    """int [K]: number of its ad."""
    request: np.ndarray
    """int [N]: number of the request."""


def _read_rows(log: pa.Table, target: pa.Table) -> _Rows:
    if log.num_rows == 0:
        raise InputError("the log holds no impressions", rule="empty_window")
    propensity = _column(log, Column.PROPENSITY, np.nan)
    if not ((propensity > 0) & (propensity <= 1)).all():
        raise InputError(
            "every impression needs its logging probability in (0, 1]",
            field=Column.PROPENSITY,
            rule="bad_propensity",
        )
    ads = target[Column.AD_ID].combine_chunks().dictionary_encode()
    target_ad = ads.indices.to_numpy()
    probability = _column(target, Column.PROPENSITY, np.nan)
    ad = pc.index_in(log[Column.AD_ID], value_set=ads.dictionary)
    totals = np.bincount(target_ad, probability)
    is_distribution = (np.abs(totals - 1) < _SUM_TOLERANCE).all()
    if ad.null_count or not is_distribution or (probability < 0).any():
        raise InputError(
            "the target must sum to one over the creatives of every ad of the log",
            field=Column.PROPENSITY,
            rule="target_distribution",
        )
    creative = pc.index_in(
        log[Column.CREATIVE_ID], value_set=target[Column.CREATIVE_ID].combine_chunks()
    )
    shown = creative.fill_null(target.num_rows).to_numpy()
    return _Rows(
        label=_labels(log),
        weight=_column(log, Column.WEIGHT, 1.0),
        importance=np.append(probability, 0.0)[shown] / propensity,
        creative=shown,
        ad=ad.to_numpy(),
        target=probability,
        target_ad=target_ad,
        request=_numbers(log[Column.REQUEST_ID]),
    )


def refusal(support: Mapping[str, float], settings: OffPolicySettings) -> str | None:
    """Say why a log cannot value a target, or None.

    Args:
        support: effective_sample_size, matched_clicks, unsupported_share.
        settings: what is needed of each.
    """
    limits = (
        ("effective_sample_size", settings.min_effective_sample, True),
        ("matched_clicks", settings.min_matched_clicks, True),
        ("unsupported_share", settings.max_unsupported_share, False),
    )
    for name, limit, is_least in limits:
        value = support[name]
        if value < limit if is_least else value > limit:
            side = "at least" if is_least else "at most"
            text = name.replace("_", " ")
            return f"thin support: {text} is {value:.4g}, {side} {limit:g} is needed"
    return None


def _unsupported_share(rows: _Rows) -> float:
    """Target mass, over the log's ads, on creatives that the log never shows."""
    size = len(rows.target)
    never_shown = np.bincount(rows.creative, minlength=size + 1)[:size] == 0
    missing = np.bincount(rows.target_ad, rows.target * never_shown)
    return float(rows.weight @ missing[rows.ad] / rows.weight.sum())


def _estimates(rows: _Rows, settings: OffPolicySettings) -> Figures:
    model_shown, model_target = _cross_fitted_model(rows, settings)
    rho, label, weight = rows.importance, rows.label, rows.weight
    columns = [weight, weight * rho, weight * rho * label]
    columns.append(weight * (model_target + rho * (label - model_shown)))
    result = cluster_bootstrap(
        sum_by_cluster(
            np.stack(columns, 1), pool_clusters(rows.request, seed=settings.seed)
        ),
        lambda t: np.stack(
            [t[..., 2] / t[..., 0], t[..., 2] / t[..., 1], t[..., 3] / t[..., 0]], -1
        ),
        replicates=settings.replicates,
        level=settings.level,
        seed=settings.seed,
    )
    return dict(zip(("ips", "snips", "dr"), result.as_dicts(), strict=True))


def _cross_fitted_model(
    rows: _Rows, settings: OffPolicySettings
) -> tuple[np.ndarray, np.ndarray]:
    """Return modelled CTR of the shown creative and of the target, float64 [N] each.

    The model is each creative's smoothed CTR in the other folds; a row that helped
    to make its own prediction would bias the correction towards zero.
    """
    folds, size = settings.folds, len(rows.target) + 1
    rng = np.random.default_rng(settings.seed)
    fold = rng.permutation(rows.request.max() + 1)[rows.request] % folds
    cell = fold * size + rows.creative
    shows, clicks = (
        np.bincount(cell, column, minlength=folds * size).reshape(folds, size)
        for column in (rows.weight, rows.weight * rows.label)
    )
    shows, clicks = shows.sum(0) - shows, clicks.sum(0) - clicks
    mean = clicks.sum(1, keepdims=True) / np.maximum(shows.sum(1, keepdims=True), 1)
    strength = settings.prior_impressions
    model = (clicks + strength * mean) / (shows + strength)
    by_ad = np.stack(
        [np.bincount(rows.target_ad, rows.target * one[:-1]) for one in model]
    )
    return model[fold, rows.creative], by_ad[fold, rows.ad]


def _clusters(log: pa.Table, settings: OffPolicySettings) -> np.ndarray:
    return pool_clusters(_numbers(log[Column.REQUEST_ID]), seed=settings.seed)


def _numbers(ids: pa.ChunkedArray) -> np.ndarray:
    """Number distinct values from 0."""
    numbers: np.ndarray = ids.combine_chunks().dictionary_encode().indices.to_numpy()
    return numbers


def _labels(log: pa.Table) -> np.ndarray:
    labels: np.ndarray = log[Column.IS_CLICKED].cast(pa.float64()).to_numpy()
    return labels


def _column(table: pa.Table, name: str, default: float) -> np.ndarray:
    """Read a number column as float64; absent or null = the default."""
    if name not in table.column_names:
        return np.full(table.num_rows, default)
    values: np.ndarray = table[name].cast(pa.float64()).fill_null(default).to_numpy()
    return values
