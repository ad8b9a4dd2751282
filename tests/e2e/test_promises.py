"""The load client, the fault proxy and the raw writer against a small server."""

import asyncio
import json
import threading
import time

import pytest
from aiohttp import web

from cacs_ray.local_server import LOOPBACK, free_port
from cacs_ray.promises.arrivals import constant_arrivals
from cacs_ray.promises.bodies import json_bodies
from cacs_ray.promises.fault_proxy import Fault, fault_proxy
from cacs_ray.promises.hostile import HostileRequest
from cacs_ray.promises.hostile_envelopes import HostileBytes
from cacs_ray.promises.judges import judge_no_error, judge_refused, judge_tries
from cacs_ray.promises.latency import latency_of, paired_latency
from cacs_ray.promises.load import (
    HUNG_UP,
    NOT_SENT,
    LoadLimits,
    Target,
    measure_capacity,
    run_load,
)
from cacs_ray.promises.senders import Senders, sender
from cacs_ray.promises.survival import statuses, write_raw

BODIES = json_bodies([{"candidates": []}, {"candidates": [1]}], "two")
ANSWER = {"release": "r1", "is_fallback": False, "placements": [{"slot": 0}]}


class Server:
    """Answers after `delay_s`, one at a time where `is_serial`."""

    def __init__(self):
        self.delay_s, self.stall_s, self.is_serial = 0.0, 0.0, False
        self.ids, self.num_left = [], 0
        self._lock = asyncio.Lock()

    async def decide(self, request):
        asked = json.loads(await request.read())
        self.ids.append(asked["request_id"])
        stall_s, self.stall_s = self.stall_s, 0.0
        try:
            if self.is_serial:
                async with self._lock:
                    await asyncio.sleep(self.delay_s + stall_s)
            else:
                await asyncio.sleep(self.delay_s + stall_s)
        except asyncio.CancelledError:
            self.num_left += 1
            raise
        return web.json_response(ANSWER)

    async def shed(self, request):
        return web.Response(status=503, headers={"Retry-After": "1"})


@pytest.fixture
def server():
    """A server in a thread of its own, so that the client's clock is its own."""
    made, port = Server(), free_port()
    loop = asyncio.new_event_loop()
    application = web.Application()
    application.router.add_post("/v1/decide", made.decide)
    application.router.add_post("/shed", made.shed)
    runner = web.AppRunner(application, handler_cancellation=True, access_log=None)

    async def start():
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, port).start()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    made.url = f"http://{LOOPBACK}:{port}"
    made.port = port
    yield made
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=10)
    loop.close()


def decide(server):
    return Target(f"{server.url}/v1/decide", BODIES)


def test_every_arrival_is_sent_once_under_its_own_id(server):
    shots = run_load(
        decide(server),
        constant_arrivals(100, 0.5),
        LoadLimits(name="a", keeps_answers=True),
    )
    assert (shots["status"] == 200).all()
    assert sorted(server.ids) == sorted(shots["shot_id"])
    assert len(set(server.ids)) == 50
    assert set(shots["answered_as"]) == {"r1"}
    assert json.loads(shots["placements"][0]) == ANSWER["placements"]


def test_a_stall_is_paid_by_all_that_wait_behind_it(server):
    """Coordinated omission: a closed loop would count one slow request."""
    server.is_serial, server.stall_s = True, 0.5
    shots = run_load(decide(server), constant_arrivals(50, 0.5))
    # The request that comes t seconds after the stall began waits 0.5 - t.
    slow = shots.filter(shots["latency_ms"] > 100).height
    assert slow == pytest.approx(0.4 * 50, abs=4)


def test_what_the_client_does_not_send_is_counted(server):
    server.delay_s = 0.3
    shots = run_load(
        decide(server), constant_arrivals(100, 0.2), LoadLimits(max_open=5)
    )
    assert (shots["status"] == NOT_SENT).sum() == 20 - 5
    assert judge_no_error("load", shots).failed == 15


def test_clients_hang_up_and_the_server_sees_it(server):
    server.delay_s = 0.2
    limits = LoadLimits(hang_up_share=1.0, hang_up_after_s=0.05)
    shots = run_load(decide(server), constant_arrivals(50, 0.2), limits)
    assert (shots["status"] == HUNG_UP).all()
    deadline = time.monotonic() + 5
    while server.num_left < 10 and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    assert server.num_left == 10


def test_no_answer_in_time_is_a_failure(server):
    server.delay_s = 1.0
    shots = run_load(
        decide(server), constant_arrivals(10, 0.2), LoadLimits(timeout_s=0.1)
    )
    assert set(shots["status"]) == {0}
    assert set(shots["error"]) == {"TimeoutError"}


def test_refusals_are_kept_apart_from_answers(server):
    shots = run_load(Target(f"{server.url}/shed", BODIES), constant_arrivals(20, 0.5))
    assert judge_refused(shots).is_kept
    assert latency_of(shots).answered == 0


def test_capacity_follows_the_time_of_an_answer(server):
    server.delay_s, server.is_serial = 0.02, True
    rate, shots = measure_capacity(decide(server), duration_s=0.6, concurrency=4)
    assert 20 < rate <= 1 / 0.02
    assert len(set(shots["shot_id"])) == shots.height


def test_a_target_that_costs_more_shows_in_the_ratio_of_pairs(server):
    slow = Fault(share=1.0, delay_s=0.05)
    with (
        fault_proxy(server.url, slow) as slower,
        fault_proxy(server.url, Fault()) as same,
    ):
        paired, raw = paired_latency(
            Target(f"{slower}/v1/decide", BODIES),
            Target(f"{same}/v1/decide", BODIES),
            rate=20,
            block_s=0.3,
            num_blocks=3,
        )
    assert len(paired.ratios("p50")) == 3
    assert paired.median_ratio("p50") > 2
    assert paired.failed == 0
    assert raw.height == 2 * 3 * 6


@pytest.mark.parametrize(
    "fault", [Fault(share=0.5, status=500), Fault(0.5, is_cut=True)]
)
def test_the_fault_proxy_breaks_what_it_is_told_to(server, fault):
    with fault_proxy(server.url, fault) as spoilt:
        target = Target(f"{spoilt}/v1/decide", BODIES)
        shots = run_load(target, constant_arrivals(100, 0.5), LoadLimits(num_retries=1))
    first, second = judge_tries(shots, "")
    assert first.failed == pytest.approx(25, abs=12)
    assert 0 < second.failed < first.failed


def test_the_fault_proxy_hides_and_renames(server):
    with fault_proxy(server.url, Fault(1.0, hides_retry_after=True)) as spoilt:
        shots = run_load(Target(f"{spoilt}/shed", BODIES), constant_arrivals(20, 0.2))
        assert judge_refused(shots).failed == 4
    with fault_proxy(server.url, Fault(1.0, release="r2")) as spoilt:
        shots = run_load(
            Target(f"{spoilt}/v1/decide", BODIES), constant_arrivals(20, 0.2)
        )
    assert set(shots["answered_as"]) == {"r2"}


def test_hostile_bytes_get_a_status_a_close_or_nothing(server):
    def sent(text, **more):
        return write_raw(LOOPBACK, server.port, HostileBytes("x", (text,), **more))

    assert sent(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n") == 404
    assert sent(b"\x00\x01\r\n\r\n") in (1, 400)
    assert sent(b"", is_answer_owed=False) == 1
    send = sender(server.url)
    assert send(HostileRequest("x", b"{}", path="/nothing")) == 404
    assert send(HostileRequest("x", b"not json")) == 500


def test_requests_over_several_connections_all_come_back(server):
    server.delay_s = 0.1
    body = json.dumps({"request_id": "q"}).encode()
    started = time.monotonic()
    with Senders(server.url, num_connections=4) as senders:
        for number in range(20):
            senders.ask(HostileRequest(f"{number}", body))
        senders.ask(HostileRequest("lost", path="/nothing"))
        outcomes = senders.outcomes()
    assert outcomes == [*((f"{number}", 200) for number in range(20)), ("lost", 404)]
    assert statuses(outcomes) == "200 x 20, 404 x 1"
    # Four at a time, not one after the other.
    assert time.monotonic() - started < 20 * 0.1
