"""A request of the wire, as the catalogue and the stages know it."""

from datetime import UTC, datetime

import pyarrow as pa

from cacs_ray.answers.prepare import PreparedRequests, prepare_requests
from cacs_ray.decision.candidates import Candidates
from cacs_ray.decision.controls import ControlRows
from cacs_ray.schema import REQUESTS, Column
from serve.api import DecideRequest
from serve.bounds import check_lists
from serve.release import PageView, Release, microseconds, requests_table


def prepare(
    release: Release,
    request: DecideRequest,
    page: PageView,
    controls: ControlRows | None = None,
) -> PreparedRequests:
    """Apply the rules of asking that need no model.

    Raises:
        InputError: the ads have too many live creatives, see `check_lists`.
    """
    prepared = prepare_requests(
        release.catalogue,
        _asked_table(request, page, release.columns),
        controls=controls,
    )
    check_lists(prepared.candidates)
    return prepared


def page_view(release: Release, request: DecideRequest, token: str) -> PageView:
    """Return a request as stages are asked it; `token` names it among others."""
    return PageView(
        request_id=request.request_id,
        request_ts_us=microseconds(request.request_ts or datetime.now(UTC)),
        user_id=request.user_id,
        features=release.features(request.features),
        ad_ids=tuple(asked.ad_id for asked in request.candidates),
        bid_micros=tuple(asked.bid_micros for asked in request.candidates),
        token=token,
    )


def _asked_table(
    request: DecideRequest, page: PageView, columns: pa.Schema
) -> pa.Table:
    """Return a request in the contract's requests form."""
    asked = {
        Column.CREATIVE_IDS: [c.creative_ids for c in request.candidates],
        Column.PINNED_CREATIVE_ID: [c.pinned_creative_id for c in request.candidates],
    }
    table = requests_table(page, columns)
    for name, values in asked.items():
        table = table.append_column(name, pa.array(values, REQUESTS.field(name).type))
    return table


def narrowed(page: PageView, candidates: Candidates) -> PageView:
    """Return the page view of the ads that take part."""
    return PageView(
        page.request_id,
        page.request_ts_us,
        page.user_id,
        page.features,
        candidates.ad_ids,
        tuple(candidates.bid_micros.tolist()),
        page.token,
    )
