"""Bodies of requests: of bounded size, in bounded time, strictly parsed."""

import asyncio
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from cacs_ray.errors import InputError
from serve.api import MAX_BODY_BYTES, Problem, ProblemReport

JSON = "application/json"
BUSY = 503
LEFT = 499
"""Nobody reads this answer; as proxies do, so that who left is no bug of ours."""
RETRY_AFTER_S = 1
_BODY_TIMEOUT_S = 5.0
_MAX_PROBLEMS = 20

Model = TypeVar("Model", bound=BaseModel)


class RefusalError(Exception):
    """An answer with status 4xx, or 503 to be tried again."""

    def __init__(self, status: int, error: str, *problems: Problem) -> None:
        super().__init__(error)
        self.status = status
        self.report = ProblemReport(error=error, problems=list(problems))

    @classmethod
    def of(cls, error: InputError, status: int = 422) -> "RefusalError":
        """Return the refusal of a request that breaks a rule of its content."""
        problem = Problem(
            field=error.field or "", message=str(error), rule=error.rule or ""
        )
        return cls(status, "the request breaks a rule", problem)


def body_schema(model: str) -> dict[str, Any]:
    """Describe the body of a route for OpenAPI, by the name of its model.

    Bodies are parsed by hand, so FastAPI does not know them.
    """
    schema = {"$ref": f"#/components/schemas/{model}"}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


async def read_model(request: Request, model: type[Model]) -> Model:
    """Read and parse a JSON body.

    Raises:
        RefusalError: it is too large, too slow, of another type or none, or breaks
            its schema.
    """
    return parse_model(await read_body(request), model)


def parse_model(body: bytes, model: type[Model]) -> Model:
    """Parse a JSON body.

    Raises:
        RefusalError: it breaks its schema.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise RefusalError(
            422, "the request breaks its schema", *_problems(error.errors())
        ) from error


async def read_body(request: Request) -> bytes:
    """Read a JSON body.

    It must say that it is JSON: pages of other sites may send what says nothing, or
    calls itself plain text, to an address of the reader's own machine unasked.

    Raises:
        RefusalError: it is too large, too slow, or of another type or none, or the
            client left before it was whole.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.split(";")[0].strip().lower() != JSON:
        raise RefusalError(415, f"the body must be {JSON}")
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
    except ClientDisconnect:
        raise RefusalError(LEFT, "the client left before its body was whole") from None
    return bytes(body)


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


async def refuse(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """Answer a refusal."""
    if not isinstance(error, RefusalError):
        raise error
    headers = {"Retry-After": str(RETRY_AFTER_S)} if error.status == BUSY else {}
    return Response(error.report.model_dump_json(), error.status, headers, JSON)


async def refuse_parameters(
    request: Request,  # noqa: ARG001
    error: Exception,
) -> Response:
    """Answer a parameter or header that breaks its schema."""
    if not isinstance(error, RequestValidationError):
        raise error
    report = ProblemReport(
        error="a parameter or header breaks its schema",
        problems=_problems(error.errors()),
    )
    return Response(report.model_dump_json(), 422, media_type=JSON)
