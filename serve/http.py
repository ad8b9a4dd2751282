"""The routes: HTTP in, HTTP out; all that they decide is which status to answer."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from pydantic.json_schema import models_json_schema

from cacs_ray import __version__
from cacs_ray.errors import InputError
from cacs_ray.schema import POLICIES, PolicyName
from serve.admin import Admin, add_admin
from serve.admit import Admit
from serve.answer import decide_answer, preview_answer
from serve.api import (
    ClicksAnswer,
    ClicksRequest,
    DecideAnswer,
    DecideRequest,
    PreviewAnswer,
    ProblemReport,
    ReleaseRequest,
    Releases,
)
from serve.body import (
    JSON,
    RefusalError,
    body_schema,
    parse_model,
    read_body,
    read_model,
    refuse,
    refuse_parameters,
)
from serve.clicks import Clicks
from serve.decided import Decided
from serve.docs_page import docs_page
from serve.gateway import Gateway, Question
from serve.hosts import ANY_HOST, AllowedHosts
from serve.observe import Observe
from serve.page import PageSource, add_page
from serve.records import record_access

_PROBLEM_STATUSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemReport} for status in (400, 408, 413, 415, 422, 503)
}
_Order = Annotated[
    PolicyName | None, Query(description="order of stages in place of the configured")
]


def create_http(
    gateway: Gateway,
    *,
    clicks: Clicks | None = None,
    admin: Admin | None = None,
    page: PageSource | None = None,
    metrics_page: Callable[[], bytes] | None = None,
    allowed_hosts: Sequence[str] = (ANY_HOST,),
) -> FastAPI:
    """Return the service's HTTP application around a gateway.

    Args:
        gateway: answers.
        clicks: takes clicks; None leaves the route out.
        admin: an operator's routes; None leaves them out.
        page: what the pages for people show beside decisions.
        metrics_page: for Prometheus; None tells of this gateway alone.
        allowed_hosts: names under which it answers, see `AllowedHosts`.
    """
    http = FastAPI(
        title="CACS ad service",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_decide(http, gateway)
    _add_preview(http, gateway)
    if clicks is not None:
        _add_clicks(http, clicks)
    if admin is not None:
        add_admin(http, admin)
    _add_operations(http, gateway, metrics_page or gateway.metrics.page)
    _add_documents(http, gateway)
    add_page(http, gateway, page or PageSource())
    http.add_exception_handler(RefusalError, refuse)
    http.add_exception_handler(RequestValidationError, refuse_parameters)
    http.add_middleware(Admit, places=gateway.places, metrics=gateway.metrics)
    if ANY_HOST not in allowed_hosts:
        http.add_middleware(AllowedHosts, hosts=allowed_hosts)
    http.add_middleware(Observe, metrics=gateway.metrics)
    return http


def _add_decide(http: FastAPI, gateway: Gateway) -> None:
    @http.post(
        "/v1/decide",
        response_model=None,
        responses={200: {"model": DecideAnswer}, **_PROBLEM_STATUSES},
        openapi_extra=body_schema("DecideRequest"),
    )
    async def decide(
        request: Request,
        *,
        explain: Annotated[
            bool, Query(description="list the decisions of all candidates")
        ] = False,
        order: _Order = None,
        x_request_timeout_ms: Annotated[
            int | None, Header(ge=1, le=10_000, description="time to answer in")
        ] = None,
    ) -> Response:
        """Choose a creative for every candidate ad, then the ads for the slots."""
        body = await read_body(request)
        budget_s = None if x_request_timeout_ms is None else x_request_timeout_ms / 1e3
        try:
            async with gateway.places.take(gateway.metrics) as turn:
                decided = await gateway.decide(
                    parse_model(body, DecideRequest),
                    Question(
                        budget_s=budget_s,
                        order=order,
                        waited_s=turn.waited_s,
                        is_crowded=turn.is_crowded,
                    ),
                )
        except InputError as error:
            raise RefusalError.of(error) from error
        record_access(
            "decided",
            request_id=decided.request_id,
            release=decided.origin.release,
            policy=decided.origin.policy,
            fallback_reason=decided.origin.fallback_reason,
            ms={name: round(s * 1e3, 2) for name, s in decided.seconds.items()},
        )
        answer = decide_answer(decided, is_explained=explain)
        return Response(
            answer.model_dump_json(exclude=None if explain else {"decisions"}),
            media_type=JSON,
            headers={"Server-Timing": _server_timing(decided)},
        )


def _add_preview(http: FastAPI, gateway: Gateway) -> None:
    @http.post(
        "/v1/preview",
        response_model=None,
        responses={200: {"model": PreviewAnswer}, **_PROBLEM_STATUSES},
        openapi_extra=body_schema("DecideRequest"),
    )
    async def preview(
        request: Request,
        *,
        order: _Order = None,
        release: Annotated[
            str | None, Query(max_length=64, description="a release that is held")
        ] = None,
        x_request_timeout_ms: Annotated[int, Header(ge=1, le=10_000)] = 2_000,
    ) -> Response:
        """Say what would be decided and why; nothing is logged or counted."""
        body = await read_body(request)
        question = Question(
            budget_s=x_request_timeout_ms / 1e3, order=order, release=release
        )
        try:
            async with gateway.places.take(gateway.metrics):
                asked = parse_model(body, DecideRequest)
                decided = await gateway.preview(asked, question)
        except InputError as error:
            raise RefusalError.of(error) from error
        return Response(preview_answer(decided).model_dump_json(), media_type=JSON)

    @http.get("/v1/releases", response_model=Releases)
    async def releases() -> Response:
        """List the releases and orders that a preview may ask for."""
        held = Releases(
            live=gateway.release.bundle_id,
            held=sorted(gateway.releases.held),
            orders=list(POLICIES),
        )
        return Response(held.model_dump_json(), media_type=JSON)


def _add_clicks(http: FastAPI, clicks: Clicks) -> None:
    @http.post(
        "/v1/clicks",
        response_model=None,
        responses={202: {"model": ClicksAnswer}, **_PROBLEM_STATUSES},
        openapi_extra=body_schema("ClicksRequest"),
    )
    async def accept(request: Request) -> Response:
        """Take clicks on ads that were shown; they are joined with decisions later.

        503: the log has no room for all of them, send them again; a click that comes
        twice counts once.
        """
        answer = clicks.accept(await read_model(request, ClicksRequest))
        status, headers = (503, {"Retry-After": "1"}) if answer.dropped else (202, {})
        return Response(answer.model_dump_json(), status, headers, JSON)


def _add_operations(
    http: FastAPI, gateway: Gateway, metrics_page: Callable[[], bytes]
) -> None:
    @http.get("/healthz", response_model=None, responses={503: {}})
    async def healthz() -> Response:
        """Send a golden request through all stages; 503 when one fails."""
        problem = await gateway.health()
        if problem is None:
            return JSONResponse({"status": "ok", "release": gateway.release.bundle_id})
        return JSONResponse({"status": "failing", "reason": problem}, 503)

    @http.get("/readyz", response_model=None, responses={503: {}})
    async def readyz() -> Response:
        """Say whether traffic is to come here; a stage that is down is no reason."""
        if await gateway.is_ready():
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "starting"}, 503)

    @http.get("/metrics", response_model=None, response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters and latencies of all gateways, for Prometheus."""
        page = await asyncio.to_thread(metrics_page)
        return Response(page, media_type="text/plain; version=0.0.4")


def _add_documents(http: FastAPI, gateway: Gateway) -> None:
    def described() -> dict[str, Any]:
        if http.openapi_schema is None:
            schema = get_openapi(
                title=http.title, version=http.version, routes=http.routes
            )
            # The bodies are parsed by hand, so FastAPI does not know their schemas.
            bodies = (DecideRequest, ClicksRequest, ReleaseRequest)
            _, models = models_json_schema(
                [(body, "validation") for body in bodies],
                ref_template="#/components/schemas/{model}",
            )
            schema["components"]["schemas"].update(models["$defs"])
            for body in bodies:
                schema["components"]["schemas"].setdefault(
                    body.__name__, body.model_json_schema()
                )
            http.openapi_schema = schema
        return http.openapi_schema

    http.openapi = described  # type: ignore[method-assign]

    @http.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        release = gateway.release
        example = release.golden_request(datetime.now(UTC)).model_dump(
            mode="json", exclude_defaults=True
        )
        return HTMLResponse(docs_page(described(), release.bundle_id, example))


def _server_timing(decided: Decided) -> str:
    return ", ".join(
        f"{stage};dur={seconds * 1e3:.2f}" for stage, seconds in decided.seconds.items()
    )
