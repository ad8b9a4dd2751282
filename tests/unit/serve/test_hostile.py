"""No hostile request crashes the service: the list that `make promises` sends too."""

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from cacs_ray.promises.fuzz import METHODS, fuzz
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
def send(make_service):
    """Return what sends one request to the application itself."""
    http = create_http(make_service().gateway, allowed_hosts=("serve",))

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


def test_generated_requests_crash_nothing_and_reach_every_route(send):
    openapi = send(HostileRequest("", method="GET", path="/openapi.json")).json()
    known = {"ad_id": ["hat", "shoe"], "creative_ids": ["wool"]}
    bodies = []

    def kept(case):
        bodies.append(case.body)
        return send(case).status_code

    outcomes = fuzz(openapi, known, kept, count=400, seed=7)

    assert [one for one in outcomes if one[1] >= 500] == []
    asked = {name.partition("?")[0] for name, _ in outcomes}
    routes = {*openapi["paths"], "/", "/docs"}
    assert {f"{method} {path}" for path in routes for method in METHODS} <= asked
    # Proper ones are among them: the fuzz gets past the first refusal.
    assert any(status == 200 and name.startswith("POST") for name, status in outcomes)
    assert len(set(bodies)) > 200


def test_the_same_seed_sends_the_same_requests(send):
    openapi = send(HostileRequest("", method="GET", path="/openapi.json")).json()

    def sent(seed):
        seen = []
        fuzz(openapi, {}, lambda case: seen.append(case) or 200, count=60, seed=seed)
        return seen

    assert sent(1) == sent(1)
    assert sent(1) != sent(2)


def test_a_crash_is_found(send):
    """The negative control: a route that raises counts as a crash."""
    verdict = judge_survival("x", [("a body", 500), ("another", 422)])
    assert (verdict.failed, verdict.asked, verdict.is_kept) == (1, 2, False)
    assert json.dumps(verdict.as_json())
