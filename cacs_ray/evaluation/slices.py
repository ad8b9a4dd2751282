"""Two releases on the same impressions, apart for new, rare and frequent creatives.

    N  impressions     K  clusters of the bootstrap     S  slices

Slices are cut by what the challenger has seen of the shown creative, so both releases
are judged on the very same rows; every difference is paired.
"""

from typing import Any, Final

import numpy as np

from cacs_ray.evaluation.offline import EvaluationSettings
from cacs_ray.evaluation.paired import log_loss_by_row
from cacs_ray.evaluation.policies import importance, policy_probabilities
from cacs_ray.evaluation.scored_log import ScoredLog
from cacs_ray.metrics.intervals import (
    cluster_bootstrap,
    pool_clusters,
    sum_by_cluster,
)

SLICES: Final = {"new": (0,), "rare": (1, 2), "frequent": (3, 4)}
"""Name -> places in `scored_log.BUCKETS`: never shown in training, at most 100 times,
more often."""

_SUMS: Final = 6


def compare_slices(
    challenger: ScoredLog,
    champion: ScoredLog,
    settings: EvaluationSettings | None = None,
) -> dict[str, dict[str, Any]]:
    """Compare two releases on each slice of the same log.

    Args:
        challenger: the log with its scores, pCTR included.
        champion: the same rows with those of the champion.
        settings: replicates, level and seed; requests are what is drawn.

    Returns:
        `all`, `new`, `rare` and `frequent`, those that have rows, each with
        `impressions`, `clicks`, `calibration` of both sides (predicted over seen
        clicks), `log_loss_gain` (the champion's less the challenger's, nats per
        impression) and `choice_lift` (SNIPS of the challenger's choices over the
        champion's, percent), these two with `value`, `low`, `high`; above 0 the
        challenger is better.

    Raises:
        ValueError: the two logs do not hold the same rows, or one has no pCTR.
    """
    settings = settings or EvaluationSettings()
    _refuse_other_rows(challenger, champion)
    bucket = challenger.shown(challenger.buckets)
    is_in = {"all": np.full(len(challenger), True)}
    is_in |= {name: np.isin(bucket, places) for name, places in SLICES.items()}
    is_in = {name: rows for name, rows in is_in.items() if rows.any()}
    columns = _columns(challenger, champion)
    cluster = pool_clusters(challenger.request_row, seed=settings.seed)
    sums = [sum_by_cluster(columns * rows[:, None], cluster) for rows in is_in.values()]
    figures = cluster_bootstrap(
        np.concatenate(sums, axis=1),
        _figures,
        replicates=settings.replicates,
        level=settings.level,
        seed=settings.seed,
    ).as_dicts()
    sides = {"challenger": challenger, "champion": champion}
    return {
        name: {
            **_counts(challenger, rows),
            "calibration": {side: _ratio(log, rows) for side, log in sides.items()},
            "log_loss_gain": figures[2 * place],
            "choice_lift": figures[2 * place + 1],
        }
        for place, (name, rows) in enumerate(is_in.items())
    }


def _columns(challenger: ScoredLog, champion: ScoredLog) -> np.ndarray:
    """Return float64 [N, _SUMS]: weight, loss gain, and both SNIPS."""
    weight = challenger.weight.astype(np.float64)
    label = challenger.label.astype(np.float64)
    gain = log_loss_by_row(champion) - log_loss_by_row(challenger)
    parts = [weight, weight * gain]
    for side in (challenger, champion):
        match = side.shown(policy_probabilities(side, "cacs"))
        mass = weight * importance(side, "cacs", match)
        parts += [mass, mass * label]
    return np.stack(parts, axis=1)


def _figures(totals: np.ndarray) -> np.ndarray:
    """Sums [..., S x _SUMS] -> [..., S x 2]: loss gain and choice lift of each."""
    parts = totals.reshape(*totals.shape[:-1], -1, _SUMS)
    weight, gain, mass, clicks, mass_before, clicks_before = np.moveaxis(parts, -1, 0)
    lift = 100 * ((clicks / mass) / (clicks_before / mass_before) - 1)
    figures: np.ndarray = np.stack([gain / weight, lift], axis=-1)
    return figures.reshape(*totals.shape[:-1], -1)


def _pctr(log: ScoredLog) -> np.ndarray:
    if log.pctr is None:
        raise ValueError("pctr: the log has none")
    return log.shown(log.pctr).astype(np.float64)


def _counts(log: ScoredLog, rows: np.ndarray) -> dict[str, float]:
    weight = log.weight[rows].astype(np.float64)
    return {
        "impressions": float(weight.sum()),
        "clicks": float(weight @ log.label[rows].astype(np.float64)),
    }


def _ratio(log: ScoredLog, rows: np.ndarray) -> float:
    """Predicted over seen clicks; NaN without clicks."""
    clicks = _counts(log, rows)["clicks"]
    predicted = log.weight[rows].astype(np.float64) @ _pctr(log)[rows]
    return float(predicted / clicks) if clicks else float("nan")


def _refuse_other_rows(first: ScoredLog, second: ScoredLog) -> None:
    for name in ("label", "request_row", "weight"):
        if not np.array_equal(getattr(first, name), getattr(second, name)):
            raise ValueError(f"{name}: the two logs hold different rows")
    if not np.array_equal(first.shown(first.lists), second.shown(second.lists)):
        raise ValueError("lists: the two logs number creatives differently")
