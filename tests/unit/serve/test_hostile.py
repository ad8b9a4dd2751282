"""No hostile request crashes the service: the list that `make promises` sends too."""

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from cacs_ray.promises.fuzz import METHODS, Fuzz
from cacs_ray.promises.hostile import HostileRequest, hostile_requests
from cacs_ray.promises.hostile_envelopes import hostile_bytes, hostile_envelopes
from cacs_ray.promises.judges import judge_survival
from serve.http import create_http

LISTED = [*hostile_requests("hat", "wool"), *hostile_envelopes("hat")]
CASES = {case.name: case for case in LISTED}
ANSWERED = {
    "1 creative",
    "1 ms to answer",
    "500 unknown ads",
    "unknown ad",
    "unknown creative",
    "pinned unknown creative",
}


@pytest.fixture
def make_send():
    """Return what makes a sender of one request to an application itself."""

    def make(http):
        async def ask(case: HostileRequest):
            transport = httpx.ASGITransport(http, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport) as client:
                return await client.request(
                    case.method,
                    httpx.URL("http://serve", raw_path=case.path.encode()),
                    content=case.body,
                    headers=list(case.headers),
                )

        return lambda case: asyncio.run(ask(case))

    return make


@pytest.fixture
def send(make_service, make_send):
    """Send one request to the application."""
    return make_send(create_http(make_service().gateway, allowed_hosts=("serve",)))


def test_the_list_is_long_and_names_every_case_once():
    assert len(CASES) == len(LISTED)
    assert len(CASES) + len(hostile_bytes("serve:80")) >= 60


@pytest.mark.parametrize("name", CASES)
def test_it_is_answered_without_a_crash(send, name):
    answer = send(CASES[name])
    assert 200 <= answer.status_code < 500
    assert "root:" not in answer.text


def test_foreign_hosts_are_refused_and_no_other_request_for_its_host(send):
    foreign = {name for name, case in CASES.items() if "host" in dict(case.headers)}
    refused = {name for name, case in CASES.items() if send(case).status_code == 400}
    assert refused == foreign
    assert len(foreign) == 5


@pytest.mark.parametrize("path", ["/v1/decide", "/v1/preview", "/page/ads"])
def test_a_body_that_does_not_say_that_it_is_json_is_refused(send, path):
    case = replace(CASES["no content type"], path=path)
    assert send(case).status_code == 415


@pytest.mark.parametrize("name", sorted(ANSWERED))
def test_odd_but_proper_requests_are_answered(send, name):
    assert send(CASES[name]).status_code == 200


def test_most_of_the_list_is_refused(send):
    bodies = [
        c for c in CASES.values() if c.method == "POST" and c.path == "/v1/decide"
    ]
    refused = [c.name for c in bodies if send(c).status_code in (413, 415, 422)]
    assert len(refused) > 0.6 * len(bodies)


KNOWN = {"ad_id": ["hat", "shoe"], "ad_ids": ["hat"], "creative_ids": ["wool"]}


def fuzz_of(send, seed=7, token=""):
    openapi = send(HostileRequest("", method="GET", path="/openapi.json")).json()
    return Fuzz(openapi, KNOWN, seed, token)


@pytest.fixture
def whole(make_whole):
    """The application with all its routes, an operator's too."""
    return make_whole()


def test_every_route_is_asked_by_every_method(whole, make_send):
    fuzz = fuzz_of(make_send(whole))
    operations = fuzz.operations()
    assert {one.method for one in operations} == set(METHODS)
    for route in whole.routes:
        for method in getattr(route, "methods", None) or ():
            (kind,) = {
                one.kind
                for one in operations
                if one.method == method and route.path_regex.match(one.path)
            }
            assert kind != "refuses"
    assert {f"{one}" for one in operations if one.kind == "reads a body"} == {
        *("POST /v1/decide", "POST /v1/preview", "POST /v1/clicks"),
        *("POST /admin/releases", "POST /page/ads"),
    }


def test_generated_requests_crash_nothing_and_get_past_the_first_refusal(
    whole, make_send
):
    send = make_send(whole)
    fuzz = fuzz_of(send, token="secret")
    answered, bodies = {}, set()

    def kept(case):
        bodies.add(case.body)
        answered.setdefault(case.name, []).append(send(case).status_code)

    for one in fuzz.operations():
        fuzz.send(one, kept, 40 if one.kind == "reads a body" else 2)

    assert max(max(statuses) for statuses in answered.values()) < 500
    assert len(bodies) > 200
    for one in fuzz.operations():
        statuses = answered[f"{one}"]
        assert len(statuses) == (40 if one.kind == "reads a body" else 2)
        if one.kind == "reads a body":
            # Parsed: neither an envelope nor a missing token is all that is met.
            assert {200, 202, 404, 422} & set(statuses)
        if one.kind == "refuses":
            assert set(statuses) <= {404, 405}
    assert 200 in answered["POST /v1/decide"]


def test_the_same_seed_sends_the_same_requests(send):
    def sent(seed):
        fuzz, seen = fuzz_of(send, seed), []
        for one in fuzz.operations():
            fuzz.send(one, seen.append, 2)
        return seen

    assert sent(1) == sent(1)
    assert sent(1) != sent(2)


def test_a_crash_is_found(send):
    """The negative control: a route that raises counts as a crash."""
    verdict = judge_survival("x", [("a body", 500), ("another", 422)])
    assert (verdict.failed, verdict.asked, verdict.is_kept) == (1, 2, False)
    assert json.dumps(verdict.as_json())
