"""Requests to start from, for people: of the catalogue, and of a logged day.

A ads at most   C creatives per list, padded with 0
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import polars as pl
from pydantic import BaseModel, ValidationError

from cacs_ray.data.casting import cast_table
from cacs_ray.data.declaration import Dataset
from cacs_ray.data.reading import read_batches
from cacs_ray.errors import InputError
from cacs_ray.schema import Column
from serve.api import AskedCandidate, DecideRequest
from serve.release import Release, microseconds

NUM_ADS: Final = 8
"""Candidate ads of an example, where there are so many."""
NUM_LOGGED: Final = 3
_MAX_SEARCHED_ADS: Final = 20_000
_BIDS_MICROS: Final = (250_000, 400_000, 600_000, 900_000)

_logger = logging.getLogger(__name__)


class Example(BaseModel):
    """A request with a name for people."""

    name: str
    note: str
    request: DecideRequest


@dataclass(frozen=True, slots=True)
class _LiveAds:
    """Ads with something to choose from at one moment."""

    moment: datetime
    ad_ids: list[str]
    num_creatives: np.ndarray
    """int64 [A]"""
    impressions: np.ndarray
    """float64 [A]: of the live creatives together."""
    least: np.ndarray
    """float64 [A]: of the live creative that was shown least."""


def catalogue_examples(release: Release, now: datetime) -> list[Example]:
    """Return requests for ads that differ in what is known of their creatives.

    Raises:
        InputError: the catalogue is empty.
    """
    ads = _live_ads(release, now)
    orders = (
        ("Well-known ads", "most impressions in training", -ads.impressions),
        ("Fresh creatives", "a creative with few impressions or none", ads.least),
        ("Many creatives", "the longest lists to choose from", -ads.num_creatives),
    )
    examples = [
        Example(name=name, note=note, request=_request(ads, name, order))
        for name, note, order in orders
        if len(order)
    ]
    golden = release.golden_request(now)
    return examples or [
        Example(name="Any ads", note="live longest", request=golden),
    ]


def logged_examples(dataset: Dataset, release: Release) -> list[Example]:
    """Return some page views of the last file of the impressions log.

    The candidates are the ads that were shown, then ads that were shown to others
    at about that time, each with the bid that stands in the log.

    Raises:
        InputError: the log cannot be read.
    """
    piece = _last_impressions(dataset)
    catalogue = release.catalogue
    rows = catalogue.creative_row(piece[Column.CREATIVE_ID].to_list())
    piece = piece.filter(rows > 0).with_columns(
        pl.col(Column.BID_MICROS).fill_null(_BIDS_MICROS[0])
    )
    views = piece.partition_by(Column.REQUEST_ID, maintain_order=True)
    # Spread over the piece, so that they are not all of one minute.
    step = max(1, len(views) // NUM_LOGGED)
    examples = (
        _logged_example(view, piece, release) for view in views[::step][:NUM_LOGGED]
    )
    return [example for example in examples if example is not None]


def _live_ads(release: Release, now: datetime) -> _LiveAds:
    catalogue = release.catalogue
    moment = release.golden_request(now).request_ts or now
    last = min(len(catalogue.ad_ids), _MAX_SEARCHED_ADS + 1)
    ad_rows = np.arange(1, last, dtype=np.int32)
    lists = catalogue.lists(ad_rows, np.full(len(ad_rows), microseconds(moment)))
    mask = lists > 0
    kept = mask.sum(1) > 1
    impressions = np.where(mask, catalogue.impressions[lists], 0.0)[kept]
    least = np.where(mask, catalogue.impressions[lists], np.inf)[kept].min(
        1, initial=np.inf
    )
    return _LiveAds(
        moment=moment,
        ad_ids=[catalogue.ad_ids[row] for row in ad_rows[kept]],
        num_creatives=mask[kept].sum(1),
        impressions=impressions.sum(1),
        least=least,
    )


def _request(ads: _LiveAds, name: str, order: np.ndarray) -> DecideRequest:
    first = np.argsort(order, kind="stable")[:NUM_ADS]
    return DecideRequest(
        request_id=f"page-{name.lower().replace(' ', '-')}",
        request_ts=ads.moment,
        candidates=[
            AskedCandidate(
                ad_id=ads.ad_ids[row], bid_micros=_BIDS_MICROS[n % len(_BIDS_MICROS)]
            )
            for n, row in enumerate(first)
        ],
    )


def _last_impressions(dataset: Dataset) -> pl.DataFrame:
    """Return the first rows of the newest file: bounded, however long the log is."""
    features = [f.column for f in dataset.features if f.of == "request"]
    names = {
        *(Column.REQUEST_ID, Column.REQUEST_TS, Column.USER_ID, Column.AD_ID),
        *(Column.CREATIVE_ID, Column.BID_MICROS, *features),
    }
    layout = [c for c in dataset.layout("impressions") if c.name in names]
    for file in reversed(dataset.files("impressions")):
        for raw in read_batches(file, columns=[c.source for c in layout]):
            read = pl.DataFrame(cast_table(raw, layout).table)
            needed = [Column.REQUEST_ID, Column.REQUEST_TS, Column.AD_ID]
            return read.drop_nulls([*needed, Column.CREATIVE_ID])
    raise InputError("no rows", source=dataset.path, rule="empty_log")


def _logged_example(
    view: pl.DataFrame, piece: pl.DataFrame, release: Release
) -> Example | None:
    """Return a page view as a request, or None where it breaks the wire's rules."""
    first = view.row(0, named=True)
    since = piece[Column.REQUEST_TS].search_sorted(first[Column.REQUEST_TS])
    others = piece.slice(since, 50 * NUM_ADS)
    shown = pl.concat([view, others]).unique(
        Column.AD_ID, keep="first", maintain_order=True
    )
    asked = shown.select(Column.AD_ID, Column.BID_MICROS).head(NUM_ADS)
    features = dict(_known_features(first, release))
    moment: datetime = first[Column.REQUEST_TS]
    try:
        request = DecideRequest(
            request_id=first[Column.REQUEST_ID],
            request_ts=moment.astimezone(UTC),
            user_id=first[Column.USER_ID],
            features=features,
            candidates=[
                AskedCandidate(ad_id=ad_id, bid_micros=bid_micros)
                for ad_id, bid_micros in asked.iter_rows()
            ],
        )
    except ValidationError as error:
        _logger.info("a logged page view is no example: %s", error.errors()[0]["type"])
        return None
    told = [str(value) for value in features.values() if isinstance(value, str)]
    return Example(
        name=f"Visitor {request.user_id or 'unknown'}",
        note=", ".join([*told, f"{moment:%Y-%m-%d %H:%M}"]),
        request=request,
    )


def _known_features(
    row: Mapping[str, Any], release: Release
) -> Iterator[tuple[str, Any]]:
    for field in release.fields:
        value = row.get(field.column)
        if value is not None and field.column in release.columns.names:
            yield field.column, value
