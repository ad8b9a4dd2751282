"""Would this release have won? Asked of the champion's own decisions.

    N  shown decisions     C  creatives each chose among, padded     F  folds

A decision was logged with P(creative | ad, request), so what other choices would have
earned on the same ads can be estimated, as far as the champion explored. Where it did
not, the answer is a refusal. That another release also lets other ads win their slot
is not seen: only a live test answers that (see `metrics.off_policy`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cacs_ray.errors import InputError
from cacs_ray.evaluation.off_policy import OffPolicySettings, refusal
from cacs_ray.evaluation.scored_log import take_column
from cacs_ray.metrics.intervals import (
    cluster_bootstrap,
    pool_clusters,
    sum_by_cluster,
)
from cacs_ray.metrics.off_policy import effective_sample_size
from cacs_ray.schema import Column

_CERTAIN = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class LoggedChoices:
    """What the champion showed, and among what it chose."""

    creative: np.ndarray
    """int [N, C]: a number for each creative of the decision, -1 = padding."""
    shown_index: np.ndarray
    """int [N]: column of the creative that was shown."""
    propensity: np.ndarray
    """float64 [N]: with which it was shown, in (0, 1]."""
    label: np.ndarray
    """float64 [N]: 1 for a click."""
    request: np.ndarray
    """int [N]: number of the request."""


def would_have_won(
    log: LoggedChoices,
    target: np.ndarray,
    champion: np.ndarray | None = None,
    settings: OffPolicySettings | None = None,
) -> dict[str, Any]:
    """Estimate what a release would have earned on another one's decisions.

    Args:
        log: decisions that were shown, with their clicks.
        target: float64 [N, C], P(creative | ad, request) of the release; rows sum to
            one, or to less where it knows none of the creatives.
        champion: the same of the release that decided, without its exploration, for
            a fair comparison: a release that explores pays for it. None compares
            with the log as it is.
        settings: thresholds of support, folds, bootstrap.

    Returns:
        `status` "ok" or "refused", `reason` (None or why), `decisions`,
        `effective_sample_size`, `matched_clicks`, `unsupported_share` (of the target
        on creatives that the log could not have shown), `mean_importance`,
        `same_choice_share`, `compared_with` ("champion" or "log"); and, when
        answered, `logged` (the CTR of the log), `estimates` (`snips`, `dr`) and the
        `lift` of each in percent, with intervals by request.

    Raises:
        InputError: no decisions, or a propensity outside (0, 1].
    """
    settings = settings or OffPolicySettings()
    _check(log)
    match = take_column(target, log.shown_index)
    rho = match / log.propensity
    ones = np.ones(len(rho))
    support = {
        "decisions": float(len(rho)),
        "effective_sample_size": effective_sample_size(rho, ones),
        "matched_clicks": float(log.label[rho > 0].sum()),
        "unsupported_share": _unsupported_share(log, target),
        "mean_importance": float(rho.mean()),
        "same_choice_share": float(match.mean()),
    }
    told = {**support, "compared_with": "log" if champion is None else "champion"}
    reason = refusal(support, settings)
    if reason:
        return {"status": "refused", "reason": reason, **told}
    return {
        "status": "ok",
        "reason": None,
        **told,
        **_estimates(log, target, champion, settings),
    }


def _check(log: LoggedChoices) -> None:
    if not len(log.label):
        raise InputError("the log holds no shown decisions", rule="empty_log")
    if not ((log.propensity > 0) & (log.propensity <= 1)).all():
        raise InputError(
            "every decision needs its probability in (0, 1]",
            field=Column.PROPENSITY,
            rule="bad_propensity",
        )


def _unsupported_share(log: LoggedChoices, target: np.ndarray) -> float:
    """Target mass that no weighting can value.

    That is what lies on creatives which are never shown in the log, what lies beside
    the one creative of a decision made without exploring, and what the release could
    not choose because it knows none of the creatives.
    """
    size = int(log.creative.max()) + 2
    was_shown = np.zeros(size, bool)
    was_shown[take_column(log.creative, log.shown_index)] = True
    can_match = was_shown[log.creative]
    columns = np.arange(log.creative.shape[1])
    is_shown = columns == log.shown_index[:, None]
    can_match &= is_shown | (log.propensity < _CERTAIN)[:, None]
    return float(1 - (target * can_match).sum(1).mean())


def _estimates(
    log: LoggedChoices,
    target: np.ndarray,
    champion: np.ndarray | None,
    settings: OffPolicySettings,
) -> dict[str, Any]:
    modelled = _cross_fitted(log, settings)
    own = _columns(log, target, modelled)
    # Without the champion's choices the log stands for them: each row counts once.
    rival = (
        np.stack([np.ones(len(own)), log.label, log.label], axis=1)
        if champion is None
        else _columns(log, champion, modelled)
    )
    rows = np.stack([np.ones(len(own)), log.label], axis=1)
    cluster = pool_clusters(log.request, seed=settings.seed)

    def statistic(totals: np.ndarray) -> np.ndarray:
        count, clicks, *rest = np.moveaxis(totals, -1, 0)
        snips, dr = rest[1] / rest[0], rest[2] / count
        lifts = snips / (rest[4] / rest[3]), dr / (rest[5] / count)
        shown = [clicks / count, snips, dr, *(100 * (lift - 1) for lift in lifts)]
        return np.stack(shown, axis=-1)

    logged, snips, dr, snips_lift, dr_lift = cluster_bootstrap(
        sum_by_cluster(np.concatenate([rows, own, rival], axis=1), cluster),
        statistic,
        replicates=settings.replicates,
        level=settings.level,
        seed=settings.seed,
    ).as_dicts()
    return {
        "logged": logged,
        "estimates": {"snips": snips, "dr": dr},
        "lift": {"snips": snips_lift, "dr": dr_lift},
    }


def _columns(
    log: LoggedChoices, target: np.ndarray, modelled: np.ndarray
) -> np.ndarray:
    """Return float64 [N, 3]: importance, its clicks, doubly robust value."""
    rho = take_column(target, log.shown_index) / log.propensity
    correction = rho * (log.label - take_column(modelled, log.shown_index))
    return np.stack([rho, rho * log.label, (target * modelled).sum(1) + correction], 1)


def _cross_fitted(log: LoggedChoices, settings: OffPolicySettings) -> np.ndarray:
    """Return the modelled CTR of every creative without the row's own fold: [N, C].

    Each creative's CTR in the other folds, drawn towards their mean.
    """
    folds, size = settings.folds, int(log.creative.max()) + 1
    rng = np.random.default_rng(settings.seed)
    fold = rng.permutation(log.request.max() + 1)[log.request] % folds
    cell = fold * size + take_column(log.creative, log.shown_index)
    shows, clicks = (
        np.bincount(cell, column, minlength=folds * size).reshape(folds, size)
        for column in (None, log.label)
    )
    shows, clicks = shows.sum(0) - shows, clicks.sum(0) - clicks
    mean = clicks.sum(1, keepdims=True) / np.maximum(shows.sum(1, keepdims=True), 1)
    strength = settings.prior_impressions
    model = (clicks + strength * mean) / (shows + strength)
    modelled: np.ndarray = model[fold[:, None], log.creative]
    return np.where(log.creative >= 0, modelled, 0.0)
