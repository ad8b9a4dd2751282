"""What the reading of bodies promises about clients that leave."""

import asyncio

from serve.http import create_http


def test_a_client_that_leaves_within_its_body_is_no_bug_of_the_service(make_service):
    gateway = make_service().gateway
    coming = [
        {"type": "http.request", "body": b'{"request_id"', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent = []

    async def receive():
        return coming.pop(0)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/decide",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    asyncio.run(create_http(gateway)(scope, receive, send))

    assert [one["status"] for one in sent if "status" in one] == [499]
    value = gateway.metrics.registry.get_sample_value
    assert value("cacs_requests_total", {"status": "499"}) == 1
    assert value("cacs_requests_total", {"status": "500"}) is None
    assert gateway.places._taken == 0
    assert value("cacs_in_flight") == 0
