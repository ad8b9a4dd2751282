"""The pages for people: decisions with their reasons, evidence per creative.

Everything that they load comes from this service, and pictures are served only of
creatives in a catalogue that it holds.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from cacs_ray.data.declaration import Dataset
from cacs_ray.errors import InputError
from cacs_ray.features.catalogue import Catalogue
from serve.api import MAX_CANDIDATES, Identity
from serve.body import JSON, RefusalError, read_model
from serve.display import Display
from serve.evidence import EvidenceSource
from serve.examples import Example, catalogue_examples, logged_examples
from serve.gateway import Gateway

MAX_LABELLED_CREATIVES: Final = 10_000
_FOUND_ADS: Final = 12
_NUM_THREADS: Final = 2
_FILES: Final = Path(__file__).with_name("page_files")
_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_PICTURE_HEADERS: Final = _HEADERS | {
    # A drawn picture is opened by itself as a document at most: nothing runs in it.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "Cache-Control": "private, max-age=300",
}

_logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True)
class PageSource:
    """What the pages show beside the gateway's own answers."""

    dataset: Dataset | None = None
    """Titles, pictures and logged requests."""
    evidence: EvidenceSource = field(default_factory=EvidenceSource)


class RequestField(BaseModel):
    """A declared feature of a request."""

    column: str
    kind: str
    size: int


class Examples(BaseModel):
    """Requests to start from, and what a request may say."""

    examples: list[Example]
    fields: list[RequestField]


class AdsRequest(BaseModel):
    """Asks how ads and their creatives look."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ad_ids: list[Identity] = Field(min_length=1, max_length=MAX_CANDIDATES)


class AdLabel(BaseModel):
    """How an ad looks to people."""

    ad_id: str
    facts: dict[str, str]
    titles: dict[str, str]
    """Creative id -> its texts; "" where none is known."""


class FoundAds(BaseModel):
    """Ads that a search found, best known first."""

    ad_ids: list[str]


def add_page(http: FastAPI, gateway: Gateway, source: PageSource) -> None:
    """Add the pages and what they load: `/`, `/evidence`, `/page/...`."""
    display = Display(source.dataset)
    _add_files(http)
    _add_examples(http, gateway, source.dataset)
    _add_labels(http, gateway, display)
    _add_pictures(http, gateway, display)
    _add_evidence(http, gateway, source.evidence)


def _add_files(http: FastAPI) -> None:
    # All of them, once: no path that a client names is ever opened.
    files = {
        path.name: (path.read_bytes(), _MEDIA_TYPES[path.suffix])
        for path in sorted(_FILES.iterdir())
        if path.suffix in _MEDIA_TYPES
    }

    def answer(name: str) -> Response:
        content, media_type = files[name]
        return Response(content, media_type=media_type, headers=_HEADERS)

    @http.get("/", include_in_schema=False)
    async def index() -> Response:
        return answer("index.html")

    @http.get("/evidence", include_in_schema=False)
    async def evidence() -> Response:
        return answer("evidence.html")

    @http.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return RedirectResponse("page/files/icon.svg")

    @http.get("/page/files/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in files:
            raise RefusalError(404, "there is no such file")
        return answer(name)


def _add_examples(http: FastAPI, gateway: Gateway, dataset: Dataset | None) -> None:
    kept: dict[str, list[Example]] = {}
    lock = asyncio.Lock()

    @http.get("/page/examples", include_in_schema=False)
    async def examples() -> Response:
        release = gateway.release
        async with lock:
            if release.bundle_id not in kept:
                kept.clear()
                kept[release.bundle_id] = await _aside(_examples, gateway, dataset)
        fields = [
            RequestField(column=f.column, kind=f.kind, size=f.size)
            for f in release.fields
            if f.column in release.columns.names
        ]
        return _json(Examples(examples=kept[release.bundle_id], fields=fields))


def _examples(gateway: Gateway, dataset: Dataset | None) -> list[Example]:
    release = gateway.release
    found = catalogue_examples(release, datetime.now(UTC))
    if dataset is None:
        return found
    try:
        return logged_examples(dataset, release) + found
    except InputError as error:
        _logger.warning("no logged examples: %s", error)
        return found


def _add_labels(http: FastAPI, gateway: Gateway, display: Display) -> None:
    @http.post("/page/ads", include_in_schema=False)
    async def ads(request: Request) -> Response:
        asked = await read_model(request, AdsRequest)
        labels = await _aside(_labels, _catalogues(gateway), display, asked.ad_ids)
        body = b",".join(label.model_dump_json().encode() for label in labels)
        return Response(b"[" + body + b"]", media_type=JSON, headers=_HEADERS)

    @http.get("/page/search", include_in_schema=False)
    async def search(
        text: Annotated[str, Query(max_length=256)] = "",
    ) -> Response:
        """Find ads by a part of their id, or by a creative's id."""
        catalogue = gateway.release.catalogue
        found = await _aside(find_ads, catalogue, text.strip())
        return _json(FoundAds(ad_ids=found))


def _labels(
    catalogues: list[Catalogue], display: Display, ad_ids: list[str]
) -> list[AdLabel]:
    """Return labels of the ads that are known, with creatives of all releases."""
    creatives: dict[str, dict[str, None]] = {ad_id: {} for ad_id in ad_ids}
    known: set[str] = set()
    for catalogue in catalogues:
        ad_rows = catalogue.ad_row(ad_ids)
        known |= {ad for ad, row in zip(ad_ids, ad_rows, strict=True) if row}
        rows = np.flatnonzero(np.isin(catalogue.creative_ad_row, ad_rows[ad_rows > 0]))
        for row in rows[:MAX_LABELLED_CREATIVES].tolist():
            ad_id = catalogue.ad_ids[catalogue.creative_ad_row[row]]
            creatives[ad_id][catalogue.creative_ids[row]] = None
    asked = [ad_id for ad_id in creatives if ad_id in known]
    return [
        AdLabel(
            ad_id=ad_id,
            facts=facts,
            titles=dict(
                zip(
                    creatives[ad_id],
                    display.titles(list(creatives[ad_id])),
                    strict=True,
                )
            ),
        )
        for ad_id, facts in zip(asked, display.facts(asked), strict=True)
    ]


def find_ads(catalogue: Catalogue, text: str) -> list[str]:
    """Return at most a dozen ads whose id holds a text, or that own a creative.

    Args:
        catalogue: what to look in.
        text: part of an ad's id, or a creative's whole id; "" finds every ad.

    Returns:
        Ad ids: the ad itself first, then the creative's owner, then ads with
        several creatives, by falling impressions in training.
    """
    (creative,) = catalogue.creative_row([text])
    owner = int(catalogue.creative_ad_row[creative])
    rows = [row for row, ad in enumerate(catalogue.ad_ids) if row and text in ad]
    sizes = np.bincount(catalogue.creative_ad_row, minlength=len(catalogue.ad_ids))
    shown = np.bincount(
        catalogue.creative_ad_row,
        catalogue.impressions,
        minlength=len(catalogue.ad_ids),
    )
    found = sorted(
        {*rows, *([owner] if owner else [])},
        key=lambda row: (
            catalogue.ad_ids[row] != text,
            row != owner,
            not catalogue.ad_ids[row].startswith(text),
            sizes[row] < 2,
            -shown[row],
        ),
    )
    return [catalogue.ad_ids[row] for row in found[:_FOUND_ADS]]


def _add_pictures(http: FastAPI, gateway: Gateway, display: Display) -> None:
    @http.get("/page/creatives/{creative_id:path}/picture", include_in_schema=False)
    async def picture(creative_id: str) -> Response:
        catalogues = _catalogues(gateway)
        if not any(c.creative_row([creative_id])[0] for c in catalogues):
            raise RefusalError(404, "there is no such creative")
        shown = await _aside(display.picture, creative_id)
        return Response(
            shown.content, media_type=shown.media_type, headers=_PICTURE_HEADERS
        )


def _add_evidence(http: FastAPI, gateway: Gateway, source: EvidenceSource) -> None:
    @http.get("/page/evidence", include_in_schema=False)
    async def evidence(
        ad_id: Annotated[str, Query(min_length=1, max_length=256)],
    ) -> Response:
        release = gateway.release
        if not release.catalogue.ad_row([ad_id])[0]:
            raise RefusalError(404, "there is no such ad in the live release")
        found = await _aside(source.of_ad, release, ad_id)
        return _json(found)


async def _aside(work: Callable[..., Result], *args: Any) -> Result:  # noqa: ANN401
    """Work in threads of the pages: the default ones are those that score."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads(), work, *args)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_NUM_THREADS, "page")


def _catalogues(gateway: Gateway) -> list[Catalogue]:
    """Return the catalogues of all held releases, the live one first."""
    held = [served.release for served in gateway.releases.held.values()]
    live = gateway.release
    return [live.catalogue] + [r.catalogue for r in held if r is not live]


def _json(model: BaseModel) -> Response:
    return Response(model.model_dump_json(), media_type=JSON, headers=_HEADERS)
