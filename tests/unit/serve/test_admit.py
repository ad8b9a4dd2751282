"""What shedding promises: a quick no for what has no place, a place for operators."""

import asyncio
from contextlib import suppress

import httpx
import pytest

from serve.admit import BURST_LASTS, Places
from serve.http import create_http
from serve.metrics import Metrics

SEVERAL = 4
"""Rounds of the event loop that it takes to read a request and to refuse it."""

ROOM_FOR_TWO = {"max_in_flight": 2, "max_in_burst": 2}


@pytest.fixture
def busy(make_service):
    """A service with room for two, whose selector does not answer."""
    service = make_service(budget_s=30.0, rules=ROOM_FOR_TWO)
    service.selector.is_stuck = True
    return service


def ask(service, page_view, scenario):
    async def run():
        transport = httpx.ASGITransport(create_http(service.gateway))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://serve"
        ) as client:
            waiting = [
                asyncio.create_task(client.post("/v1/decide", json=page_view))
                for _ in range(2)
            ]
            while service.selector.num_calls < 2:
                await asyncio.sleep(0)
            try:
                return await scenario(client)
            finally:
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(run())


def statuses_of(service, page_view, count, path="/v1/decide"):
    """Send so many requests at once; return the statuses of their answers, sorted."""

    async def run():
        transport = httpx.ASGITransport(create_http(service.gateway))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://serve"
        ) as client:
            asked = [client.post(path, json=page_view) for _ in range(count)]
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    return sorted(asyncio.run(run()))


@pytest.mark.parametrize("path", ["/v1/decide", "/v1/preview"])
def test_one_too_many_is_refused_unread(busy, page_view, path):
    async def one_more(client):
        return await client.post(path, content=b"not even JSON")

    answer = ask(busy, page_view, one_more)

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-request-id"]
    assert "too many" in answer.json()["error"]
    value = busy.gateway.metrics.registry.get_sample_value
    assert value("cacs_requests_shed_total") == 1
    assert value("cacs_requests_total", {"status": "503"}) == 1


@pytest.mark.parametrize("path", ["/metrics", "/v1/releases"])
def test_operations_are_never_refused(busy, page_view, path):
    async def look(client):
        return await client.get(path)

    assert ask(busy, page_view, look).status_code == 200


def test_a_place_is_free_again_when_a_client_hangs_up(busy, page_view):
    async def leave_and_ask(client):
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        while busy.gateway.metrics.in_flight._value.get():
            await asyncio.sleep(0)
        busy.selector.is_stuck = False
        return await client.post("/v1/decide", json=page_view)

    assert ask(busy, page_view, leave_and_ask).status_code == 200


def test_slow_bodies_keep_nobody_out(busy, page_view):
    """A place is taken when the body is there, not before."""
    busy.selector.is_stuck = False
    coming = asyncio.Event()
    said = {"content-type": "application/json"}

    async def slow():
        coming.set()
        await asyncio.Event().wait()
        yield b""

    async def run():
        transport = httpx.ASGITransport(create_http(busy.gateway))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://serve"
        ) as client:
            waiting = [
                asyncio.create_task(
                    client.post("/v1/decide", content=slow(), headers=said)
                )
                for _ in range(8)
            ]
            await coming.wait()
            answer = await client.post("/v1/decide", json=page_view)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            return answer

    assert asyncio.run(run()).status_code == 200


def test_what_comes_together_is_refused_even_if_no_answer_takes_a_turn(
    make_service, page_view
):
    """Answers that are computed without a pause would else all be computed."""
    service = make_service(rules=ROOM_FOR_TWO)
    service.selector.is_at_once = service.ranker.is_at_once = True

    assert statuses_of(service, page_view, 12) == [200] * 2 + [503] * 10


def test_a_client_that_leaves_the_queue_lets_the_next_one_begin():
    async def run():
        places, metrics = Places(3), Metrics()

        async def answer():
            async with places.take(metrics):
                return "answered"

        tasks = [asyncio.create_task(answer()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        return [type(one).__name__ for one in answers], places.is_full

    assert asyncio.run(run()) == (["CancelledError", "str", "str"], False)


def test_a_gateway_is_idle_when_nobody_holds_a_place():
    async def run():
        places, metrics, told = Places(3), Metrics(), []
        told.append(places.is_idle)
        with suppress(ZeroDivisionError):
            async with places.take(metrics):
                told.append(places.is_idle)
                raise ZeroDivisionError
        return [*told, places.is_idle]

    assert asyncio.run(run()) == [True, False, True]


def test_between_two_answers_the_event_loop_has_time_to_read_and_refuse():
    """Were there one round only, each step of a refusal would wait for an answer."""

    async def run():
        places, metrics, rounds, began = Places(3), Metrics(), [0], []

        async def answer():
            async with places.take(metrics):
                began.append(rounds[0])

        tasks = [asyncio.create_task(answer()) for _ in range(3)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            rounds[0] += 1
        return began

    first, second, third = asyncio.run(run())
    assert second - first >= SEVERAL
    assert third - second >= SEVERAL


class Line:
    """Requests that come, hold a place and are answered one by one."""

    def __init__(self, places):
        self.places, self.metrics, self.held = places, Metrics(), []

    async def come(self, count):
        """So many come; those without a place go."""
        for _ in range(count):
            if not self.places.is_full:
                may_end = asyncio.Event()
                self.held.append((asyncio.create_task(self._answer(may_end)), may_end))
                await asyncio.sleep(0)
        for _ in range(100 * SEVERAL):
            await asyncio.sleep(0)

    async def answer_first(self):
        task, may_end = self.held.pop(0)
        may_end.set()
        await task

    async def _answer(self, may_end):
        async with self.places.take(self.metrics):
            await may_end.wait()


def held(places, arrivals):
    """How many are held and whether one more has no place, round by round.

    In each round so many arrive and one is answered.
    """
    line, told = Line(places), []

    async def run():
        for count in arrivals:
            await line.come(count)
            told.append((len(line.held), places.is_full))
            if line.held:
                await line.answer_first()
        while line.held:
            await line.answer_first()

    asyncio.run(run())
    return told


def test_what_comes_at_once_after_a_quiet_moment_is_held():
    """A pause of the machine is no overload, nor is a burst by chance."""
    told = held(Places(4, burst=12), [10] + [0] * 9 + [10])

    assert told[0][0] == 10
    assert told[-1][0] == 10


def test_what_goes_on_coming_has_only_the_ordinary_places():
    told = held(Places(4, burst=12), [3] * (2 * BURST_LASTS * 4))

    assert 4 < max(count for count, _ in told) <= 12
    assert told[-1] == (4, True)
    # And stays so as long as that much comes, though places become free in between.
    assert {count for count, _ in told[-10:]} == {4}


def test_the_places_of_a_burst_become_fewer_with_each_that_begins():
    """As many come as are answered, and the queue is never short: no overload yet."""
    told = held(Places(4, burst=12), [6] + [1] * (2 * BURST_LASTS * 4))

    # Six are held all the time; of the eight places of a burst two are left then.
    first_refused = [is_full for _, is_full in told].index(True)
    assert 6 + first_refused == BURST_LASTS * 4 * 6 / 8


@pytest.mark.parametrize(("num_calm", "is_burst"), [(1, False), (60, True)])
def test_only_a_time_of_calm_gives_a_burst_its_places_again(num_calm, is_burst):
    overload, pause, calm = [3] * (2 * BURST_LASTS * 4), [0] * 4, [1] * num_calm
    told = held(Places(4, burst=12), [*overload, *pause, *calm, 12])
    assert told[-1][0] == (12 if is_burst else 5)


def test_without_allowance_a_burst_has_the_ordinary_places():
    assert held(Places(4, burst=4), [10])[0] == (4, True)


@pytest.mark.parametrize("most", [1, 2])
def test_with_few_places_the_moment_between_two_answers_is_no_calm(most):
    assert held(Places(most, burst=32), [10])[0] == (most, True)


@pytest.mark.parametrize(
    ("places", "come", "answered"),
    [
        ((4, None, 10), 12, 10),
        ((8, 8, 200), 80, 80),
        ((8, None, None), 40, 32),
        ((2, 1, 9), 9, 2),
    ],
)
def test_a_burst_finds_its_places_in_the_service(
    make_service, page_view, places, come, answered
):
    names = ("max_in_flight", "max_in_full", "max_in_burst")
    service = make_service(rules=dict(zip(names, places, strict=True)))
    service.selector.is_at_once = service.ranker.is_at_once = True

    refused = [503] * (come - answered)
    assert statuses_of(service, page_view, come) == [200] * answered + refused


async def turns_of(places, count):
    """So many come at once; say of each whether it is crowded when its turn comes."""
    told = []

    async def come():
        async with places.take(Metrics()) as turn:
            told.append(turn.is_crowded)
            await asyncio.sleep(0)

    await asyncio.gather(*(come() for _ in range(count)))
    return told


@pytest.mark.parametrize(
    ("most", "full", "come", "num_crowded"),
    [
        (6, None, 4, 0),
        (6, None, 5, 1),
        (6, 2, 5, 3),
        (6, None, 20, 16),
        (6, 6, 20, 0),
        (6, 20, 20, 0),
        (2, None, 2, 1),
        (1, None, 1, 0),
    ],
)
def test_answers_are_cheaper_while_more_than_those_in_full_hold_places(
    most, full, come, num_crowded
):
    told = asyncio.run(turns_of(Places(most, full), come))
    assert told == [True] * num_crowded + [False] * (come - num_crowded)


def test_a_preview_is_in_full(make_service, page_view):
    service = make_service(rules={"max_in_flight": 8, "max_in_full": 1})
    service.selector.is_at_once = service.ranker.is_at_once = True
    answers = statuses_of(service, page_view, 3, path="/v1/preview")
    assert answers == [200] * 3
    assert service.ranker.num_calls == 3


def test_what_is_crowded_is_answered_without_the_ranker(make_service, page_view):
    service = make_service(rules={"max_in_flight": 5, "max_in_full": 2})
    service.selector.is_at_once = service.ranker.is_at_once = True

    assert statuses_of(service, page_view, 5) == [200] * 5
    # Three while more than two hold places; the last two have the time.
    assert (service.selector.num_calls, service.ranker.num_calls) == (5, 2)
    value = service.gateway.metrics.registry.get_sample_value
    assert value("cacs_fallbacks_total", {"reason": "ranker_spared"}) == 3
    told = {"part": "ctr", "rung": "training_ctr"}
    assert value("cacs_lower_rungs_total", told) == 3
