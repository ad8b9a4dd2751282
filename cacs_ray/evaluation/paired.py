"""Sums by which two reports of the same impressions can be compared in pairs.

    N  impressions     G  groups of requests, at most `_GROUPS`

A report keeps what each group of requests adds to its figures, together with a digest
of the impressions. Two reports with one digest then allow a paired comparison, long
after the rows themselves are gone: the grouping depends on the rows alone.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from cacs_ray.evaluation.policies import (
    available_policies,
    importance,
    policy_probabilities,
)
from cacs_ray.evaluation.scored_log import ScoredLog
from cacs_ray.metrics.intervals import (
    cluster_bootstrap,
    pool_clusters,
    sum_by_cluster,
)

Figures = dict[str, Any]

_GROUPS: Final = 200
_SMALLEST: Final = 1e-12
POLICIES: Final = ("cacs", "teacher")
"""Those that differ between two models; the others do not depend on one."""


def paired_sums(log: ScoredLog) -> Figures:
    """Return what a report keeps for later comparisons.

    Returns:
        `digest` of the impressions (order, clicks, weights, requests); `weight`
        [G]; `log_loss` [G] of the calibrated CTR, weighted nats (absent without
        pCTR); `policies`: name -> `mass` and `clicks` [G], the sums of SNIPS.
    """
    weight = log.weight.astype(np.float64)
    label = log.label.astype(np.float64)
    group = pool_clusters(log.request_row, limit=_GROUPS)

    def sums(values: np.ndarray) -> list[float]:
        added: list[float] = sum_by_cluster(values[:, None], group)[:, 0].tolist()
        return added

    kept: Figures = {"digest": _digest(log), "weight": sums(weight), "policies": {}}
    if log.pctr is not None:
        kept["log_loss"] = sums(weight * log_loss_by_row(log))
    for name in set(POLICIES) & set(available_policies(log)):
        match = log.shown(policy_probabilities(log, name))
        mass = weight * importance(log, name, match)
        kept["policies"][name] = {"mass": sums(mass), "clicks": sums(mass * label)}
    return kept


def log_loss_by_row(log: ScoredLog) -> np.ndarray:
    """Return the log loss of each impression in nats, float64 [N].

    Raises:
        ValueError: the log has no pCTR.
    """
    if log.pctr is None:
        raise ValueError("pctr: the log has none")
    pctr = np.clip(log.shown(log.pctr).astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    label = log.label.astype(np.float64)
    loss: np.ndarray = -(label * np.log(pctr) + (1 - label) * np.log1p(-pctr))
    return loss


def compare_paired(first: Mapping[str, Any], second: Mapping[str, Any]) -> Figures:
    """Compare two reports' sums, the second with the first.

    Args:
        first: what `paired_sums` kept; empty for a report without it.
        second: likewise.

    Returns:
        `status`: "ok", "not the same window" or "no sums". When ok, `figures`:
        `log_loss_gain` (the first's less the second's, nats per impression) and
        `snips_lift_<policy>` (percent), those that both have, each with `value`,
        `low`, `high` (95 %) and `is_sure`, whether the interval excludes 0. Above 0
        the second is better.
    """
    if not (first.get("digest") and second.get("digest")):
        return {"status": "no sums", "figures": {}}
    if first["digest"] != second["digest"]:
        return {"status": "not the same window", "figures": {}}
    columns, names = _shared_columns(first, second)
    intervals = cluster_bootstrap(
        np.array(columns, np.float64).T, lambda totals: _differences(totals, names)
    ).as_dicts()
    figures = {
        name: {**one, "is_sure": one["low"] > 0 or one["high"] < 0}
        for name, one in zip(names, intervals, strict=True)
    }
    return {"status": "ok", "figures": figures}


def _shared_columns(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> tuple[list[list[float]], list[str]]:
    """Return four columns for each figure that both sides have."""
    columns, names = [], []
    if "log_loss" in first and "log_loss" in second:
        names.append("log_loss_gain")
        columns += [first["log_loss"], first["weight"]]
        columns += [second["log_loss"], second["weight"]]
    for policy in POLICIES:
        sides = [one["policies"].get(policy) for one in (first, second)]
        if None not in sides:
            names.append(f"snips_lift_{policy}")
            columns += [side[part] for side in sides for part in ("clicks", "mass")]
    return columns, names


def _differences(totals: np.ndarray, names: list[str]) -> np.ndarray:
    """Sums [..., 4 x figures] -> [..., figures]."""
    parts = totals.reshape(*totals.shape[:-1], len(names), 4)
    before = parts[..., 0] / parts[..., 1]
    after = parts[..., 2] / parts[..., 3]
    is_loss = np.array([name == "log_loss_gain" for name in names], bool)
    figures: np.ndarray = np.where(is_loss, before - after, 100 * (after / before - 1))
    return figures


def _digest(log: ScoredLog) -> str:
    digest = hashlib.sha256()
    for name, kind in (("label", "<f4"), ("weight", "<f4"), ("request_row", "<i8")):
        digest.update(np.asarray(getattr(log, name)).astype(kind).tobytes())
    return digest.hexdigest()[:32]
