"""Generated requests for every route and method, repeatable by seed.

Bodies come from the service's own description (OpenAPI): values of the right kind
with odd ones among them, broken copies of those, and any JSON or bytes at all.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import hypothesis
from hypothesis import strategies as st

from cacs_ray.promises.hostile import HostileRequest

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

Send = Callable[[HostileRequest], int]
"""Sends one request and returns its status, 0 when there was no answer."""


def fuzz(
    openapi: Mapping[str, Any],
    known: Mapping[str, Sequence[str]],
    send: Send,
    *,
    count: int,
    seed: int,
) -> list[tuple[str, int]]:
    """Send generated requests to every route by every method.

    Half of them go to routes that read a body, by the method that they know; the
    rest is spread over all pairs of route and method.

    Args:
        openapi: the service's description.
        known: for names of properties, values that exist, such as ids of ads.
        send: asks the service.
        count: requests, >= 1; a few more are sent, so that each pair gets one.
        seed: the same seed sends the same requests to the same description.

    Returns:
        For each request its route and method, and the status.
    """
    outcomes: list[tuple[str, int]] = []
    pairs = [
        (path, method, operation.get(method.lower(), {}))
        for path, operation in {
            **openapi["paths"],
            "/": {},
            "/docs": {},
            "/x": {},
        }.items()
        for method in METHODS
    ]
    with_body = [one for one in pairs if "requestBody" in one[2]]
    half = math.ceil(count / 2)
    shares = [(one, math.ceil(half / len(with_body))) for one in with_body]
    shares += [(one, math.ceil(half / len(pairs))) for one in pairs]
    for number, ((path, method, operation), share) in enumerate(shares):
        strategy = _requests(path, method, _body(operation, openapi, known))

        def ask(request: HostileRequest) -> None:
            outcomes.append((f"{request.method} {request.path}", send(request)))

        _run(strategy, ask, share, seed + number)
    return outcomes


def _run(
    strategy: st.SearchStrategy[HostileRequest],
    ask: Callable[[HostileRequest], None],
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
    hypothesis.seed(seed)(settings(hypothesis.given(strategy)(ask)))()


def _requests(
    path: str, method: str, body: st.SearchStrategy[bytes]
) -> st.SearchStrategy[HostileRequest]:
    return st.builds(
        HostileRequest,
        name=st.just("generated"),
        body=body,
        method=st.just(method),
        path=_QUERIES.map(lambda query: path + query),
        headers=_HEADERS,
    )


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
