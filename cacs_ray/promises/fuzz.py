"""Generated requests for every route and method, repeatable by seed.

Bodies come from the service's own description (OpenAPI): values of the right kind
with odd ones among them, broken copies of those, and any JSON or bytes at all.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote

import hypothesis
from hypothesis import strategies as st

from cacs_ray.promises.hostile import HostileRequest
from cacs_ray.schema import Column

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD")
_MAX_ITEMS: Final = 4
_ODD: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=20),
    st.just("\ud800"),
    st.just("\x00"),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)
_ANY_JSON: Final = st.recursive(
    _ODD,
    lambda inner: st.one_of(
        st.lists(inner, max_size=_MAX_ITEMS),
        st.dictionaries(st.text(max_size=8), inner, max_size=_MAX_ITEMS),
    ),
    max_leaves=12,
)
_HEADERS: Final = st.sampled_from(
    [
        # Twice, so that more of them get past the envelope.
        (("content-type", "application/json"),),
        (("content-type", "application/json"),),
        (("content-type", "application/json"), ("x-request-timeout-ms", "50")),
        (("content-type", "application/json"), ("x-request-timeout-ms", "-1")),
        (("content-type", "text/plain"),),
        (("content-type", "application/json"), ("content-encoding", "gzip")),
        (("content-type", "application/json"), ("authorization", "Bearer x")),
        (),
    ]
)
_QUERIES: Final = st.sampled_from(["", "", "?explain=true", "?explain=x", "?%00=%ff"])
_ADMIN: Final = "/admin/"

Ask = Callable[[HostileRequest], object]
"""Sends one request."""
Kind = Literal["reads a body", "answers", "refuses"]


@dataclass(frozen=True, slots=True)
class Operation:
    """A route by a method."""

    path: str
    method: str
    described: Mapping[str, Any] | None
    """As OpenAPI has it; None where the route does not take this method."""
    number: int
    """Its own, so that its requests are its own too."""

    @property
    def kind(self) -> Kind:
        """What the service does with its requests."""
        if self.described is None:
            return "refuses"
        return "reads a body" if "requestBody" in self.described else "answers"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Fuzz:
    """Requests to a service, as it describes itself."""

    openapi: Mapping[str, Any]
    known: Mapping[str, Sequence[str]]
    """For names of properties, values that exist, such as ids of ads."""
    seed: int
    """The same one sends the same requests to the same description."""
    token: str = ""
    """Sent with most requests to an operator's routes, whose bodies nobody reads
    without it."""

    def operations(self) -> list[Operation]:
        """Return every route by every method, the pages and one that is not there."""
        paths = {**self.openapi["paths"], **_pages(self.known)}
        pairs = [(path, method) for path in paths for method in METHODS]
        return [
            Operation(path, method, paths[path].get(method.lower()), number)
            for number, (path, method) in enumerate(pairs)
        ]

    def send(self, operation: Operation, ask: Ask, count: int) -> None:
        """Send generated requests to one route by one method.

        Args:
            operation: one of `operations`.
            ask: sends a request.
            count: requests, >= 1.
        """
        strategy = st.builds(
            HostileRequest,
            name=st.just(str(operation)),
            body=_body(operation.described or {}, self.openapi, self.known),
            method=st.just(operation.method),
            path=_QUERIES.map(lambda query: operation.path + query),
            headers=self._headers(operation),
        )
        _run(strategy, ask, count, self.seed + operation.number)

    def _headers(
        self, operation: Operation
    ) -> st.SearchStrategy[tuple[tuple[str, str], ...]]:
        if not self.token or not operation.path.startswith(_ADMIN):
            return _HEADERS
        allowed = ("authorization", f"Bearer {self.token}")
        admitted = _HEADERS.map(lambda headers: (allowed, *headers))
        return st.one_of(admitted, admitted, admitted, _HEADERS)


def _pages(known: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Return what the service does not describe, in the manner of OpenAPI."""
    ids = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    ads = {"type": "object", "properties": {"ad_ids": ids}, "required": ["ad_ids"]}
    body = {"content": {"application/json": {"schema": ads}}}
    creative = quote((known.get(Column.CREATIVE_IDS) or ["none"])[0], safe="")
    shown: tuple[str, ...] = ("/", "/evidence", "/favicon.ico", "/docs")
    shown += ("/page/examples", "/page/search", "/page/evidence")
    shown += ("/page/files/common.js", f"/page/creatives/{creative}/picture")
    return {
        **{path: {"get": {}} for path in shown},
        "/openapi.json": {"get": {}, "head": {}},
        "/page/ads": {"post": {"requestBody": body}},
        "/x": {},
    }


def _run(
    strategy: st.SearchStrategy[HostileRequest],
    ask: Ask,
    count: int,
    seed: int,
) -> None:
    """Draw and ask; nothing is shrunk, because every outcome is kept."""
    settings = hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    def sent(request: HostileRequest) -> None:
        ask(request)

    hypothesis.seed(seed)(settings(hypothesis.given(strategy)(sent)))()


def _body(
    operation: Mapping[str, Any],
    openapi: Mapping[str, Any],
    known: Mapping[str, Sequence[str]],
) -> st.SearchStrategy[bytes]:
    anything = st.one_of(_ANY_JSON.map(_dumped), st.binary(max_size=200))
    if "requestBody" not in operation:
        return anything
    (media,) = operation["requestBody"]["content"].values()
    proper = _values(media["schema"], openapi["components"]["schemas"], known)
    broken = st.tuples(
        proper.map(_dumped), st.integers(0, 2**16), st.binary(max_size=3)
    )
    return st.one_of(
        proper.map(_dumped), proper.map(_dumped), broken.map(_spliced), anything
    )


def _values(
    schema: Mapping[str, Any],
    schemas: Mapping[str, Any],
    known: Mapping[str, Sequence[str]],
    name: str = "",
) -> st.SearchStrategy[Any]:
    """Return values of a JSON schema, one in ten of another kind."""
    if "$ref" in schema:
        return _values(schemas[schema["$ref"].rpartition("/")[2]], schemas, known, name)
    proper = _proper(schema, schemas, known, name)
    return st.integers(0, 9).flatmap(lambda draw: _ODD if draw == 0 else proper)


def _proper(
    schema: Mapping[str, Any],
    schemas: Mapping[str, Any],
    known: Mapping[str, Sequence[str]],
    name: str,
) -> st.SearchStrategy[Any]:
    if "anyOf" in schema:
        options = [_values(one, schemas, known, name) for one in schema["anyOf"]]
        return st.one_of(options)
    kind = schema.get("type")
    if kind == "object":
        return _object(schema, schemas, known)
    if kind == "array":
        items = _values(schema.get("items", {}), schemas, known, name)
        least = min(schema.get("minItems", 0), _MAX_ITEMS)
        return st.lists(items, min_size=least, max_size=_MAX_ITEMS)
    if kind == "string" and name in known:
        return st.one_of(st.sampled_from(known[name]), st.text(max_size=20))
    if kind == "integer":
        low = schema.get("minimum", schema.get("exclusiveMinimum", -(2**40)))
        return st.integers(low, schema.get("maximum", 2**64))
    plain: dict[Any, st.SearchStrategy[Any]] = {
        "string": st.text(max_size=30),
        "number": st.floats(),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    return plain.get(kind, _ANY_JSON)


def _object(
    schema: Mapping[str, Any],
    schemas: Mapping[str, Any],
    known: Mapping[str, Sequence[str]],
) -> st.SearchStrategy[Any]:
    properties = schema.get("properties")
    if properties is None:
        names = st.one_of(
            st.sampled_from(known.get("features") or ["device"]), st.text(max_size=8)
        )
        return st.dictionaries(names, _ODD, max_size=_MAX_ITEMS)
    values = {
        name: _values(one, schemas, known, name) for name, one in properties.items()
    }
    needed = set(schema.get("required", ()))
    return st.fixed_dictionaries(
        {name: one for name, one in values.items() if name in needed},
        optional={name: one for name, one in values.items() if name not in needed},
    )


def _dumped(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Write JSON as a careless client does: NaN and lone surrogates go through."""
    return json.dumps(value).encode()


def _spliced(parts: tuple[bytes, int, bytes]) -> bytes:
    """Put bytes into the middle of a body in place of some of its own."""
    body, place, bytes_in = parts
    at = place % (len(body) + 1)
    return body[:at] + bytes_in + body[at + 1 :]
