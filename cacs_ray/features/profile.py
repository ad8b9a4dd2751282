"""Profiles: what a window looks like, field by field, and how far another has moved.

A profile cuts the values of every declared field into at most `_BINS` bins that hold
about equal shares of the training impressions, plus one for what is unknown. It is
made of the training window, travels inside the bundle, and any later window is laid
into the same bins.

    ids, categories     values by falling count, neighbours thrown together
    numbers             quantiles
    vectors             quantiles along one fixed direction, the same for all
"""

from typing import Final

import numpy as np
from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.features.batch import EncodedLog
from cacs_ray.features.spec import FeatureSpec, FieldSpec

_BINS: Final = 10
_MOST_ROWS: Final = 500_000
"""Impressions looked at, evenly over the window: shares need no more."""


class FieldProfile(Config):
    """One field on the training window."""

    kind: str
    """As declared."""
    edges: tuple[float, ...]
    """Upper ends of all bins but the last, rising; an end belongs to its bin."""
    shares: tuple[float, ...]
    """Share of impressions: unknown first, then by bin; sums to one."""


class Profile(Config):
    """All declared fields on the training window, by field key."""

    fields: dict[str, FieldProfile] = Field(default_factory=dict)


def make_profile(log: EncodedLog, spec: FeatureSpec) -> Profile:
    """Cut every field of a window into bins of about equal shares.

    Args:
        log: the training window.
        spec: its fitted features.

    Returns:
        The profile; one without fields when the window has no rows.
    """
    rows = _rows(log)
    if not len(rows):
        return Profile()
    made = {}
    for field in spec.fields:
        values, weight = _values(log, field, rows)
        edges = _edges(values, weight)
        made[field.key] = FieldProfile(
            kind=field.kind,
            edges=tuple(edges.tolist()),
            shares=tuple(_shares(values, weight, edges).tolist()),
        )
    return Profile(fields=made)


def drift(profile: Profile, log: EncodedLog, spec: FeatureSpec) -> dict[str, object]:
    """Compare a window with a profile.

    Args:
        profile: of the training window.
        log: the other window, encoded by the same features.
        spec: those features.

    Returns:
        Field key -> `kind`, `divergence` (Jensen-Shannon, in bits: 0 = the same
        shares, 1 = nothing in common; a small one is about 0.18 times the population
        stability index, but it stays finite where a bin was empty) and
        `unknown_share` of the window; empty when the window has no rows.
    """
    rows = _rows(log)
    if not len(rows):
        return {}
    found: dict[str, object] = {}
    for field in spec.fields:
        before = profile.fields.get(field.key)
        if before is None:
            continue
        values, weight = _values(log, field, rows)
        now = _shares(values, weight, np.array(before.edges))
        found[field.key] = {
            "kind": before.kind,
            "divergence": divergence(np.array(before.shares), now),
            "unknown_share": float(now[0]),
        }
    return found


def divergence(first: np.ndarray, second: np.ndarray) -> float:
    """Jensen-Shannon divergence of two distributions, in bits, in [0, 1].

    >>> divergence(np.array([0.5, 0.5]), np.array([0.5, 0.5]))
    0.0
    >>> divergence(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    1.0
    """
    # Replicas read profiles but never compare them: importing this takes .3 s.
    from scipy.spatial.distance import jensenshannon

    return float(jensenshannon(first, second, base=2) ** 2)


def _rows(log: EncodedLog) -> np.ndarray:
    places = np.linspace(0, len(log) - 1, min(len(log), _MOST_ROWS))
    return np.unique(places.astype(np.int64))


def _values(
    log: EncodedLog, field: FieldSpec, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return values and weights: float64 [M] each, NaN = unknown.

    M is the number of rows, but for lists, whose values count one by one.
    """
    weight = np.asarray(log.weight[rows], np.float64)
    encoded = np.asarray(_of_rows(log, field, rows))
    if field.encoding == "number":
        return np.where(encoded[:, 1] > 0, np.nan, encoded[:, 0]), weight
    if field.encoding == "vector":
        along = encoded[:, :-1].astype(np.float64) @ _direction(field.size)
        return np.where(encoded[:, -1] > 0, along, np.nan), weight
    if field.encoding == "index_list":
        # An empty list is one unknown value.
        is_kept = encoded > 0
        is_kept[:, 0] = True
        weight = np.broadcast_to(weight[:, None], encoded.shape)[is_kept]
        encoded = encoded[is_kept]
    return np.where(encoded > 0, encoded.astype(np.float64), np.nan), weight


def _of_rows(log: EncodedLog, field: FieldSpec, rows: np.ndarray) -> np.ndarray:
    """Return a field of the shown creative, the ad, the user or the request."""
    if field.of == "request":
        return log.requests[field.key][rows]
    if field.of == "user":
        return log.users[field.key][log.user_row[rows]]
    if field.of == "ad":
        return log.ads[field.key][log.ad_row[rows]]
    shown = log.lists[log.list_row[rows], log.shown_index[rows]]
    return log.creatives[field.key][shown]


def _direction(size: int) -> np.ndarray:
    """Return float64 [size], length 1, the same for all time."""
    drawn = np.random.default_rng(0).standard_normal(size)
    direction: np.ndarray = drawn / np.linalg.norm(drawn)
    return direction


def _edges(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return rising upper ends of bins that hold about equal weight."""
    is_known = np.isfinite(values)
    distinct, index = np.unique(values[is_known], return_inverse=True)
    if len(distinct) <= _BINS:
        return distinct[:-1]
    mass = np.cumsum(np.bincount(index, weight[is_known]))
    goals = np.arange(1, _BINS) / _BINS * mass[-1]
    ends = np.unique(np.searchsorted(mass, goals))
    return distinct[ends[ends < len(distinct) - 1]]


def _shares(values: np.ndarray, weight: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return float64 [1 + bins]: the share of unknown values, then of each bin."""
    is_known = np.isfinite(values)
    place = np.where(is_known, 1 + np.searchsorted(edges, values), 0)
    mass = np.bincount(place, weight, minlength=len(edges) + 2)
    shares: np.ndarray = mass / mass.sum()
    return shares
