"""What is done beside requests rests; what is done before them does not."""

import asyncio
import sys
from threading import Thread

import pytest

from serve import app as app_module
from serve.board import ReleaseBoard
from serve.gently import LONGEST_S, POLL_S, SHARE, STRETCH_S, gently
from serve.metrics import Metrics
from tests.unit.serve.conftest import entry
from tests.unit.serve.test_board import Replica


class Time:
    """A clock that work and rests move on."""

    def __init__(self):
        self.now_s = self.rested_s = self.worked_s = 0.0

    def work(self, seconds):
        self.now_s += seconds
        self.worked_s += seconds

    def rest(self, seconds):
        self.now_s += seconds
        self.rested_s += seconds

    def gently(self, is_busy=lambda: True):
        return gently(
            is_busy,
            clock=lambda: self.now_s,
            work=lambda: self.worked_s,
            rest=self.rest,
        )


def works_beside(time, is_busy, num_steps=1000):
    """Work in steps of a millisecond; return its share of the time that went by."""
    with time.gently(is_busy):
        for _ in range(num_steps):
            time.work(0.001)
    return time.worked_s / (time.worked_s + time.rested_s)


def test_it_takes_its_share_however_much_is_asked():
    share = works_beside(Time(), lambda: True)
    assert share == pytest.approx(SHARE, rel=0.1)


def test_it_goes_on_when_nothing_is_asked():
    share = works_beside(Time(), lambda: False)
    assert share == pytest.approx(STRETCH_S / (STRETCH_S + POLL_S), rel=0.1)


def test_it_waits_until_what_is_asked_is_answered():
    time = Time()
    works_beside(time, lambda: time.now_s < 0.03, num_steps=8)
    # After five steps it waits for .03 s, then does the other three in one go.
    assert time.rested_s == pytest.approx(0.025, abs=POLL_S)


def test_it_rests_no_more_when_it_takes_too_long():
    time = Time()
    works_beside(time, lambda: True, num_steps=60_000)
    assert time.now_s < LONGEST_S + 60.0
    assert time.rested_s < LONGEST_S


def test_a_rest_ends_when_it_has_taken_too_long():
    time = Time()
    with time.gently():
        time.work(LONGEST_S - 1)
        len("")
    assert time.now_s <= LONGEST_S + POLL_S


def test_what_only_waits_earns_no_rest():
    time = Time()
    with time.gently():
        time.now_s += 10 * STRETCH_S
        len("")
    assert time.rested_s <= 2 * POLL_S


def test_a_short_piece_does_not_rest():
    time = Time()
    works_beside(time, lambda: True, num_steps=2)
    assert time.rested_s == 0


def test_a_profiler_comes_back_also_after_an_error():
    def other(*_):
        pass

    sys.setprofile(other)
    try:
        with pytest.raises(ZeroDivisionError), gently():
            1 / 0  # noqa: B018
        assert sys.getprofile() is other
    finally:
        sys.setprofile(None)


def test_other_threads_do_not_rest():
    seen = []
    with gently():
        thread = Thread(target=lambda: seen.append(sys.getprofile()))
        thread.start()
        thread.join()
    assert seen == [None]


class Watched(Replica):
    """A replica that notes whether it loads gently."""

    def __init__(self, board, kind):
        self.rests = []
        super().__init__(board, kind)

    def load(self, path):
        self.rests.append(sys.getprofile() is not None)
        return super().load(path)


def test_what_a_replica_starts_with_is_loaded_at_full_speed(tmp_path, make_bundle):
    board = ReleaseBoard(tmp_path / "board")
    arm = entry(make_bundle("arm"))
    board.begin(entry(make_bundle("old")), kinds=("gateway",), beside=(arm,))
    replica = Watched(board, "gateway")
    board.offer(make_bundle("new"))
    replica.holder.follow()
    assert replica.loaded == ["old", "arm", "new"]
    assert replica.rests == [False, False, True]


def test_releases_of_a_gateway_wait_while_it_answers(make_replica, monkeypatch):
    is_busy = {}

    def noting(name, made):
        def make(*args, **options):
            is_busy[name] = options["is_busy"]
            return made(*args, **options)

        return make

    monkeypatch.setattr(app_module, "Holder", noting("loading", app_module.Holder))
    monkeypatch.setattr(app_module, "Admin", noting("copying", app_module.Admin))
    places = make_replica()._gateway.places

    async def told():
        async with places.take(Metrics()):
            return {name: ask() for name, ask in is_busy.items()}

    assert asyncio.run(told()) == {"loading": True, "copying": True}
    assert not any(ask() for ask in is_busy.values())
