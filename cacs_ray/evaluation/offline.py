"""A scored log -> the figures of a report: policies, ranker, student and teacher.

    N  impressions     C  creatives per list     K  clusters of the bootstrap

Values say what the ads that were shown would have earned with other creatives;
see `metrics.off_policy` for what such an estimate cannot see.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import numpy as np
from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.evaluation.model_quality import agreement_report, ranker_report
from cacs_ray.evaluation.paired import paired_sums
from cacs_ray.evaluation.policies import (
    SAME_CHOICE,
    available_policies,
    importance,
    policy_probabilities,
)
from cacs_ray.evaluation.scored_log import BUCKETS, ScoredLog, take_column
from cacs_ray.metrics.creative import nsctr, nsctr_per_ad
from cacs_ray.metrics.intervals import (
    cluster_bootstrap,
    pool_clusters,
    sum_by_cluster,
)
from cacs_ray.metrics.off_policy import effective_sample_size

Figures = dict[str, Any]
"""A branch of the report: names to numbers, intervals or further branches."""

ALL: Final = "all"
WITH_CHOICE: Final = "with_choice"
FEWEST_ADS: Final = 30
"""With fewer ads the bootstrap draws requests instead."""

_FIGURES: Final = ("sctr", "snips", "ips", "dr", "lift_sctr", "lift_snips")
_SUMS: Final = 10


class EvaluationSettings(Config):
    """How figures are counted."""

    cluster: Literal["auto", "ad", "request"] = "auto"
    """What the bootstrap draws; auto = ads, or requests when ads are few."""
    replicates: int = Field(default=1000, ge=100)
    """Bootstrap samples."""
    level: float = Field(default=0.95, gt=0, lt=1)
    """Probability that an interval should hold the truth."""
    seed: int = 0
    """For the bootstrap and the posterior draws."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """What every slice of a log needs, computed once; n of its N rows."""

    label: np.ndarray
    """float64 [n]"""
    weight: np.ndarray
    """float64 [n]"""
    propensity: np.ndarray
    """float64 [n]: of the shown creative."""
    uniform: np.ndarray
    """float64 [n]: 1 / list length."""
    shown_index: np.ndarray
    """int [n]"""
    cluster: np.ndarray
    """int [n]"""
    is_unsupported: np.ndarray
    """float32 [n, C]: 1 where the log never shows the creative."""
    model: np.ndarray | None
    """float64 [n, C]: modelled CTR, 0 for padding."""
    num_clusters: int
    impressions: float
    """Of the whole log."""

    @classmethod
    def of(cls, log: ScoredLog, cluster: np.ndarray) -> Self:
        """Take all rows of a log."""
        was_shown = np.zeros(len(log.impressions), bool)
        was_shown[log.shown(log.lists)] = True
        return cls(
            label=log.label.astype(np.float64),
            weight=log.weight.astype(np.float64),
            propensity=log.logged_propensity,
            uniform=1.0 / log.mask.sum(1),
            shown_index=log.shown_index,
            cluster=cluster,
            is_unsupported=(~was_shown[log.lists]).astype(np.float32),
            model=None
            if log.pctr is None
            else np.where(log.mask, log.pctr, 0.0).astype(np.float64),
            num_clusters=int(cluster.max()) + 1,
            impressions=float(log.weight.astype(np.float64).sum()),
        )

    def take(self, rows: np.ndarray) -> Self:
        """Return some rows, counted against the same log and clusters."""
        per_row = {
            field.name: getattr(self, field.name)[rows]
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        return dataclasses.replace(self, **per_row)


@dataclass(frozen=True, slots=True)
class _Slice:
    """One policy in one bucket: sums per cluster, and what needs no interval."""

    sums: np.ndarray
    """float64 [K, _SUMS]; the columns are built in `_slice`."""
    share: float
    matched_impressions: float
    matched_clicks: float
    effective_sample_size: float
    mean_importance: float
    unsupported_share: float


def evaluate(log: ScoredLog, settings: EvaluationSettings | None = None) -> Figures:
    """Compute every offline figure of one bundle on one test window.

    Args:
        log: the window with the scores of the bundle.
        settings: clusters, replicates, level and seed.

    Returns:
        A dictionary of plain numbers (NaN = cannot be said):

        - `rows`, `impressions`, `clicks`, `ctr`, `requests`, `ads`,
          `known_propensity_share`, `cluster`, `clusters`, `level`, `same_choice`
        - `policies`: per policy `sctr`, `nsctr`, `snips`, `ips`, `dr` and
          `lift_over_random` (`sctr`, `snips`, in percent), each with `value`, `low`,
          `high`; `nsctr_coverage`, `matched_impressions`, `matched_clicks`,
          `effective_sample_size`, `mean_importance` (1 where logging supports the
          policy), `unsupported_share`; `by_bucket` of the chosen creative, where
          `random` is random choice on the same decisions; and `with_choice`, the
          same on the lists whose creatives the selector tells apart
        - `ranker`, `agreement`: see `model_quality`; only with their scores
        - `paired`: see `paired`, for comparisons with other reports of the window

    Raises:
        InputError: the window is empty.
        ValueError: an array has the wrong shape or a score is not finite.
    """
    settings = settings or EvaluationSettings()
    log.check()
    by_ad = pool_clusters(log.ad_row, seed=settings.seed)
    unit = settings.cluster
    if unit == "auto":
        unit = "ad" if by_ad.max() + 1 >= FEWEST_ADS else "request"
    cluster = (
        by_ad if unit == "ad" else pool_clusters(log.request_row, seed=settings.seed)
    )
    report = {
        **_header(log),
        "cluster": unit,
        "clusters": int(cluster.max()) + 1,
        "level": settings.level,
        "same_choice": {name: list(same) for name, same in SAME_CHOICE.items()},
        "policies": _policies_report(log, cluster, settings),
        "paired": paired_sums(log),
    }
    if log.pctr is not None:
        report["ranker"] = ranker_report(log)
    if log.teacher_scores is not None:
        report["agreement"] = agreement_report(log)
    return report


def _header(log: ScoredLog) -> Figures:
    impressions = float(log.weight.sum())
    clicks = float(log.weight @ log.label.astype(np.float64))
    known = float(log.weight[~np.isnan(log.propensity)].sum())
    return {
        "rows": len(log),
        "impressions": impressions,
        "clicks": clicks,
        "ctr": clicks / impressions,
        "requests": len(np.unique(log.request_row)),
        "ads": len(np.unique(log.ad_row)),
        "known_propensity_share": known / impressions,
    }


def _policies_report(
    log: ScoredLog, cluster: np.ndarray, settings: EvaluationSettings
) -> Figures:
    slices: dict[tuple[str, str], _Slice] = {}
    traffic: dict[str, np.ndarray] = {}
    coverage: dict[str, float] = {}
    rows = _Rows.of(log, cluster)
    for name in available_policies(log):
        target = policy_probabilities(log, name, seed=settings.seed)
        slices |= {(name, k): v for k, v in _policy_slices(log, rows, name, target)}
        ads = rows.label, log.shown(target), log.ad_row, rows.weight
        traffic[name], coverage[name] = nsctr_per_ad(*ads), nsctr(*ads).coverage

    intervals = _slice_intervals(slices, settings)
    report: Figures = {}
    for (name, bucket), part in slices.items():
        figures = _slice_report(part, intervals[name, bucket])
        if bucket == ALL:
            report[name] = figures | {"by_bucket": {}}
        elif bucket == WITH_CHOICE:
            report[name][WITH_CHOICE] = figures
        else:
            report[name]["by_bucket"][bucket] = figures
    for name, interval in _nsctr_intervals(traffic, settings).items():
        report[name] |= {"nsctr": interval, "nsctr_coverage": coverage[name]}
    return report


def _policy_slices(
    log: ScoredLog, rows: _Rows, name: str, target: np.ndarray
) -> Iterator[tuple[str, _Slice]]:
    """Yield a policy as a whole, where there is a choice, and by bucket."""
    rho = importance(log, name, log.shown(target))
    yield ALL, _slice(rows, target, rho)
    chosen_from = np.flatnonzero(log.has_choice)
    if len(chosen_from):
        parts = rows.take(chosen_from), target[chosen_from], rho[chosen_from]
        yield WITH_CHOICE, _slice(*parts)
    buckets = log.buckets
    for number, bucket in enumerate(BUCKETS):
        inside = np.where(buckets == number, target, 0.0)
        kept = np.flatnonzero(inside.any(1))
        if len(kept):
            rho_inside = rho[kept] * (log.shown(buckets)[kept] == number)
            yield bucket, _slice(rows.take(kept), inside[kept], rho_inside)


def _slice(rows: _Rows, target: np.ndarray, rho: np.ndarray) -> _Slice:
    """Sum up a policy, or the part of it whose choices lie in one bucket.

    `target` rows then sum to the share of the decision that lies in the bucket;
    random choice is counted on the same decisions with the same shares.
    """
    label, weight, propensity = rows.label, rows.weight, rows.propensity
    share, match = target.sum(1), take_column(target, rows.shown_index)
    random_match = share * rows.uniform
    random_rho = random_match / propensity
    masses = match, rho, share, random_match, random_rho
    columns = np.empty((len(label), _SUMS))
    columns[:, 0:5] = (weight * np.stack(masses)).T
    columns[:, 5] = weight * _doubly_robust(rows, target, rho)
    # IPS and SNIPS share their clicks; a random share has no clicks of its own.
    for clicks, mass in ((6, 0), (7, 1), (8, 3), (9, 4)):
        columns[:, clicks] = columns[:, mass] * label
    sums = sum_by_cluster(columns, rows.cluster, size=rows.num_clusters)
    total = sums.sum(0)
    unsupported = np.einsum("n,nc,nc->", weight, target, rows.is_unsupported)
    return _Slice(
        sums=sums,
        share=float(total[2]) / rows.impressions,
        matched_impressions=float(total[0]),
        matched_clicks=float(total[6]),
        effective_sample_size=effective_sample_size(rho, weight),
        mean_importance=float(total[1] / total[2]),
        unsupported_share=float(unsupported / total[2]),
    )


def _doubly_robust(rows: _Rows, target: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Return the DR value of each row; NaN without a model."""
    if rows.model is None:
        return np.full(len(rows.label), np.nan)
    model_shown = take_column(rows.model, rows.shown_index)
    modelled = np.einsum("nc,nc->n", target, rows.model)
    value: np.ndarray = modelled + rho * (rows.label - model_shown)
    return value


def _figures(sums: np.ndarray) -> np.ndarray:
    """Sums of a slice [..., _SUMS] -> [..., figures], in the order of `_FIGURES`."""
    match, rho, total, random_match, random_rho, model, *clicks = np.moveaxis(
        sums, -1, 0
    )
    sctr, snips = clicks[0] / match, clicks[1] / rho
    random_sctr, random_snips = clicks[2] / random_match, clicks[3] / random_rho
    return np.stack(
        [
            sctr,
            snips,
            clicks[1] / total,
            model / total,
            100 * (sctr / random_sctr - 1),
            100 * (snips / random_snips - 1),
        ],
        axis=-1,
    )


def _slice_intervals(
    slices: dict[tuple[str, str], _Slice], settings: EvaluationSettings
) -> dict[tuple[str, str], Figures]:
    """One bootstrap for all slices, so that they can be compared."""
    sums = np.concatenate([part.sums for part in slices.values()], axis=1)

    def statistic(totals: np.ndarray) -> np.ndarray:
        shape = totals.shape[:-1]
        figures = _figures(totals.reshape(*shape, len(slices), _SUMS))
        return figures.reshape(*shape, -1)

    result = cluster_bootstrap(
        sums,
        statistic,
        replicates=settings.replicates,
        level=settings.level,
        seed=settings.seed,
    )
    columns = iter(result.as_dicts())
    return {key: {name: next(columns) for name in _FIGURES} for key in slices}


def _nsctr_intervals(
    traffic: dict[str, np.ndarray], settings: EvaluationSettings
) -> dict[str, Figures]:
    """NSCTR is a sum over ads, so ads are what is drawn, whatever the rest draws."""
    columns = np.concatenate(list(traffic.values()), axis=1)
    sums = sum_by_cluster(
        columns, pool_clusters(np.arange(len(columns)), seed=settings.seed)
    )
    result = cluster_bootstrap(
        sums[sums.any(1)],
        lambda totals: totals[..., ::2] / totals[..., 1::2],
        replicates=settings.replicates,
        level=settings.level,
        seed=settings.seed,
    )
    return dict(zip(traffic, result.as_dicts(), strict=True))


def _slice_report(part: _Slice, intervals: Figures) -> Figures:
    return {
        "share": part.share,
        **{name: intervals[name] for name in ("sctr", "snips", "ips", "dr")},
        "lift_over_random": {
            "sctr": intervals["lift_sctr"],
            "snips": intervals["lift_snips"],
        },
        "matched_impressions": part.matched_impressions,
        "matched_clicks": part.matched_clicks,
        "effective_sample_size": part.effective_sample_size,
        "mean_importance": part.mean_importance,
        "unsupported_share": part.unsupported_share,
    }
