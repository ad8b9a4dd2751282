"""Bodies of requests of one size, made from the catalogue of a bundle."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from cacs_ray.errors import InputError
from cacs_ray.features.catalogue import Catalogue
from cacs_ray.features.kept import read_catalogue
from cacs_ray.manifest import read_manifest
from cacs_ray.schema import Column

NUM_ADS: Final = 50
NUM_CREATIVES: Final = 8
NUM_DIFFERENT: Final = 200
_MAX_BID_MICROS: Final = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class JsonBodies:
    """Requests that differ from each other, repeated as often as needed."""

    requests: tuple[bytes, ...]
    """JSON objects without their id, which is the first key of what is sent."""
    shape: str
    """How many ads and creatives they ask about, in words."""
    num_ads: int
    """Of each request."""

    def body(self, index: int, request_id: str) -> bytes:
        """Return the body of the n-th request under its own id."""
        tail = self.requests[index % len(self.requests)]
        return f'{{"{Column.REQUEST_ID}":"{request_id}",'.encode() + tail[1:]


def json_bodies(requests: Sequence[dict[str, Any]], shape: str) -> JsonBodies:
    """Return bodies of requests of as many ads each, given without ids.

    Raises:
        InputError: there is none.
    """
    if not requests:
        raise InputError("no request to send", rule="at_least_1")
    return JsonBodies(
        tuple(json.dumps(one, separators=(",", ":")).encode() for one in requests),
        shape,
        len(requests[0]["candidates"]),
    )


def bundle_bodies(
    bundle: str | Path,
    *,
    num_ads: int = NUM_ADS,
    num_creatives: int = NUM_CREATIVES,
    num_different: int = NUM_DIFFERENT,
    seed: int = 0,
) -> JsonBodies:
    """Return requests of `num_ads` ads with `num_creatives` creatives each.

    Ads that have more creatives are restricted to the first ones that live longest;
    where too few ads have as many, those with the most take part as they are, and
    `shape` says so. Ads and bids are drawn by seed; users are unknown visitors.

    Raises:
        InputError: not a bundle, or one without creatives.
    """
    read_manifest(Path(bundle))  # a clear error when it is none
    catalogue = read_catalogue(Path(bundle) / "catalogue")
    lists = _lists_by_ad(catalogue, num_creatives)
    pool = [row for row, ids in lists.items() if len(ids) == num_creatives]
    if len(pool) < num_ads:
        pool = sorted(lists, key=lambda row: -len(lists[row]))[:num_ads]
    if not pool:
        raise InputError("the catalogue has no creatives", source=str(bundle))
    rng = np.random.default_rng(seed)
    moment = _moment(catalogue).isoformat()
    requests, num_listed, num_asked = [], 0, min(num_ads, len(pool))
    for _ in range(num_different):
        rows = rng.choice(pool, num_asked, replace=False).tolist()
        bids = rng.integers(1, _MAX_BID_MICROS, num_asked).tolist()
        num_listed += sum(len(lists[row]) for row in rows)
        candidates = [
            {
                Column.AD_ID: catalogue.ad_ids[row],
                Column.BID_MICROS: bid,
                Column.CREATIVE_IDS: lists[row],
            }
            for row, bid in zip(rows, bids, strict=True)
        ]
        requests.append({Column.REQUEST_TS: moment, "candidates": candidates})
    mean = num_listed / (num_different * num_asked)
    shape = f"{num_asked} ads x {mean:.3g} creatives, {num_different} different"
    return json_bodies(requests, shape)


def _lists_by_ad(catalogue: Catalogue, most: int) -> dict[int, list[str]]:
    """Return up to `most` creatives of each ad, those that live longest."""
    order = 1 + np.argsort(-catalogue.live_until_us[1:], kind="stable")
    lists: dict[int, list[str]] = {}
    moment_us = _microseconds(_moment(catalogue))
    for row in order.tolist():
        is_live = (
            catalogue.live_from_us[row] <= moment_us < catalogue.live_until_us[row]
        )
        ids = lists.setdefault(int(catalogue.creative_ad_row[row]), [])
        if is_live and len(ids) < most:
            ids.append(catalogue.creative_ids[row])
    return {row: ids for row, ids in lists.items() if ids}


def _moment(catalogue: Catalogue) -> datetime:
    """Return a moment at which the latest creatives are live: after all have begun."""
    begun = catalogue.live_from_us[1:]
    latest = int(begun.max(initial=0))
    return _EPOCH + timedelta(microseconds=max(latest, 0))


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
