"""A page of another site cannot ask the service, whatever address its name has."""

import asyncio

import httpx
import pytest
import yaml
from pydantic import ValidationError

from serve.arguments import AppArgs
from serve.hosts import LOOPBACK_HOSTS
from serve.http import create_http
from tests.contracts.sources import ROOT

FOREIGN = (
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example:8000",
    "[::1]evil.example",
    "localhost:80@evil.example",
    "0.0.0.0:8000",
    "10.1.2.3",
    "",
    ":8000",
)


@pytest.fixture
def ask(make_service):
    """Ask with what stands in `Host`, as often as is given."""

    def ask(*hosts, path="/v1/decide", method="POST", allowed=LOOPBACK_HOSTS, **sent):
        http = create_http(make_service().gateway, allowed_hosts=allowed)

        async def exchange():
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(http), base_url="http://serve"
            )
            async with client:
                request = client.build_request(method, path, **sent)
                others = [h for h in request.headers.raw if h[0].lower() != b"host"]
                named = [(b"Host", host.encode()) for host in hosts]
                request.headers = httpx.Headers([*others, *named])
                return await client.send(request)

        return asyncio.run(exchange())

    return ask


@pytest.mark.parametrize("name", LOOPBACK_HOSTS)
@pytest.mark.parametrize("port", ["", ":8000"])
def test_it_answers_under_the_names_of_this_machine(ask, page_view, name, port):
    assert ask(name.upper() + port, json=page_view).status_code == 200


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("path", ["/", "/v1/decide", "/v1/clicks", "/x"])
def test_another_name_is_refused_and_told_why(ask, page_view, host, path):
    answer = ask(host, path=path, json=page_view)

    assert answer.status_code == 400
    (problem,) = answer.json()["problems"]
    assert (problem["field"], problem["rule"]) == ("host", "allowed_hosts")
    assert answer.headers["x-request-id"]


def test_every_host_that_is_named_counts(ask, page_view):
    assert ask("localhost", "evil.example", json=page_view).status_code == 400
    assert ask(json=page_view).status_code == 400


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize("hosts", [["10.1.2.3:8000"], ["[fd00::1]:8000"], []])
def test_probes_ask_under_any_address_or_none(ask, path, hosts):
    assert ask(*hosts, path=path, method="GET").status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_a_page_is_no_probe(ask, path):
    assert ask("evil.example", path=path, method="GET").status_code == 400


@pytest.mark.parametrize("allowed", [["*"], ["ads.example"]])
def test_other_names_can_be_configured(ask, page_view, allowed):
    asked = {"allowed": allowed, "json": page_view}
    assert ask("ads.example:443", **asked).status_code == 200


def test_names_come_as_a_list_or_as_text():
    assert AppArgs(bundle="b").allowed_hosts == LOOPBACK_HOSTS
    for said in ("a,[::1]", ["a", "[::1]"]):
        args = AppArgs.model_validate({"bundle": "b", "allowed_hosts": said})
        assert args.allowed_hosts == ("a", "[::1]")
    with pytest.raises(ValidationError):
        AppArgs.model_validate({"bundle": "b", "allowed_hosts": []})


def test_a_name_that_no_request_can_match_is_refused():
    args = AppArgs.model_validate({"bundle": "b", "allowed_hosts": "localhost, [::1]"})
    assert args.allowed_hosts == ("localhost", "[::1]")
    for wrong in ("ads.example:8000", "::1", "[::1]:80", "a b", "a/b", "a.", ""):
        with pytest.raises(ValidationError, match="is no host name"):
            AppArgs.model_validate({"bundle": "b", "allowed_hosts": [wrong]})


def test_a_replica_answers_under_the_names_of_its_configuration(
    make_replica, page_view
):
    replica = make_replica(allowed_hosts=("ads.example",), budget_ms=10_000)
    http = replica.__serve_build_asgi_app__()

    async def answers():
        transport = httpx.ASGITransport(http)
        async with httpx.AsyncClient(transport=transport) as client:
            return [
                await client.post(f"http://{host}/v1/decide", json=page_view)
                for host in ("ads.example", "localhost")
            ]

    assert [one.status_code for one in asyncio.run(answers())] == [200, 400]


def test_the_shipped_service_on_loopback_keeps_pages_of_other_sites_out():
    config = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    (application,) = config["applications"]
    assert config["http_options"]["host"] == "127.0.0.1"
    assert tuple(application["args"]["allowed_hosts"]) == LOOPBACK_HOSTS
