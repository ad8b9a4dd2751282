"""The routes: HTTP in, HTTP out; all that they decide is which status to answer."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import ValidationError
from pydantic.json_schema import models_json_schema
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cacs_ray import __version__
from cacs_ray.errors import InputError
from serve.api import (
    MAX_BODY_BYTES,
    DecideAnswer,
    DecideRequest,
    Problem,
    ProblemReport,
)
from serve.docs_page import docs_page
from serve.gateway import Decided, Gateway
from serve.metrics import Metrics

_BODY_TIMEOUT_S = 5.0
_JSON = "application/json"
_MAX_PROBLEMS = 20
_PROBLEM_STATUSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemReport} for status in (408, 413, 415, 422, 503)
}


class RefusalError(Exception):
    """An answer with status 4xx."""

    def __init__(self, status: int, error: str, *problems: Problem) -> None:
        super().__init__(error)
        self.status = status
        self.report = ProblemReport(error=error, problems=list(problems))


def create_http(gateway: Gateway) -> FastAPI:
    """Return the service's HTTP application around a gateway."""
    http = FastAPI(
        title="CACS ad service",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_decide(http, gateway)
    _add_operations(http, gateway)
    _add_documents(http, gateway)
    http.add_exception_handler(RefusalError, _refuse)
    http.add_exception_handler(RequestValidationError, _refuse_parameters)
    http.add_middleware(CountStatus, metrics=gateway.metrics)
    return http


def _add_decide(http: FastAPI, gateway: Gateway) -> None:
    @http.post(
        "/v1/decide",
        response_model=None,
        responses={200: {"model": DecideAnswer}, **_PROBLEM_STATUSES},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    _JSON: {"schema": {"$ref": "#/components/schemas/DecideRequest"}}
                },
            }
        },
    )
    async def decide(
        request: Request,
        *,
        explain: Annotated[
            bool, Query(description="list the decisions of all candidates")
        ] = False,
        x_request_timeout_ms: Annotated[
            int | None, Header(ge=1, le=10_000, description="time to answer in")
        ] = None,
    ) -> Response:
        """Choose a creative for every candidate ad, then the ads for the slots."""
        asked = _parse(await _read_body(request))
        budget_s = None if x_request_timeout_ms is None else x_request_timeout_ms / 1e3
        try:
            decided = await gateway.decide(asked, budget_s=budget_s)
        except InputError as error:
            raise RefusalError(
                422,
                "the request breaks a rule",
                Problem(
                    field=error.field or "", message=str(error), rule=error.rule or ""
                ),
            ) from error
        answer = gateway.answer(decided, is_explained=explain)
        return Response(
            answer.model_dump_json(exclude=None if explain else {"decisions"}),
            media_type=_JSON,
            headers={"Server-Timing": _server_timing(decided)},
        )


def _add_operations(http: FastAPI, gateway: Gateway) -> None:
    @http.get("/healthz", response_model=None, responses={503: {}})
    async def healthz() -> Response:
        """Send a golden request through all stages; 503 when one fails."""
        problem = await gateway.health()
        if problem is None:
            return JSONResponse({"status": "ok", "release": gateway.release.bundle_id})
        return JSONResponse({"status": "failing", "reason": problem}, 503)

    @http.get("/metrics", response_model=None)
    async def metrics() -> Response:
        """Counters and latencies of this replica, for Prometheus."""
        return Response(gateway.metrics.page(), media_type="text/plain; version=0.0.4")


def _add_documents(http: FastAPI, gateway: Gateway) -> None:
    def described() -> dict[str, Any]:
        if http.openapi_schema is None:
            schema = get_openapi(
                title=http.title, version=http.version, routes=http.routes
            )
            # The body is parsed by hand, so FastAPI does not know its schema.
            _, models = models_json_schema(
                [(DecideRequest, "validation")],
                ref_template="#/components/schemas/{model}",
            )
            schema["components"]["schemas"].update(models["$defs"])
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

    @http.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("docs")


async def _read_body(request: Request) -> bytes:
    """Read a JSON body of bounded size in bounded time."""
    content_type = request.headers.get("content-type", _JSON)
    if content_type.split(";")[0].strip().lower() != _JSON:
        raise RefusalError(415, f"the body must be {_JSON}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusalError(415, "the body must not be compressed")
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise RefusalError(413, f"the body exceeds {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise RefusalError(408, "the body did not arrive in time") from None
    return bytes(body)


def _parse(body: bytes) -> DecideRequest:
    try:
        return DecideRequest.model_validate_json(body)
    except ValidationError as error:
        raise RefusalError(
            422, "the request breaks its schema", *_problems(error.errors())
        ) from error


def _problems(errors: Any) -> list[Problem]:  # noqa: ANN401 - pydantic's own lists
    """Name field and rule of what is wrong; never repeat what was sent."""
    return [
        Problem(
            field=".".join(str(part)[:100] for part in error["loc"]),
            message=error["msg"],
            rule=error["type"],
        )
        for error in errors[:_MAX_PROBLEMS]
    ]


def _server_timing(decided: Decided) -> str:
    return ", ".join(
        f"{stage};dur={seconds * 1e3:.2f}" for stage, seconds in decided.seconds.items()
    )


async def _refuse(request: Request, error: Exception) -> Response:  # noqa: ARG001
    if not isinstance(error, RefusalError):
        raise error
    return Response(error.report.model_dump_json(), error.status, media_type=_JSON)


async def _refuse_parameters(
    request: Request,  # noqa: ARG001
    error: Exception,
) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    report = ProblemReport(
        error="a parameter or header breaks its schema",
        problems=_problems(error.errors()),
    )
    return Response(report.model_dump_json(), 422, media_type=_JSON)


class CountStatus:
    """Middleware that counts answers by status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; look at the start of the answer."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counted)
