"""What is done again and again is done at moments that no call moves."""

import threading
from types import SimpleNamespace

from cacs_ray import repeating as module
from cacs_ray.repeating import repeating


class Clock:
    """Time that passes by waiting and by working alone."""

    def __init__(self, last_s):
        self.now_s, self.last_s, self.calls_s = 0.0, last_s, []
        self.is_over = threading.Event()

    def monotonic(self):
        return self.now_s

    def wait(self, seconds):
        self.now_s += seconds
        if self.now_s > self.last_s:
            self.is_over.set()
        return self.is_over.is_set()

    def set(self):
        self.is_over.set()


def calls(monkeypatch, takes_s, last_s=20.0):
    clock = Clock(last_s)
    told = SimpleNamespace(Event=lambda: clock, Thread=threading.Thread)
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "threading", told)

    def work():
        clock.calls_s.append(clock.now_s)
        clock.now_s += takes_s

    with repeating(work, 5.0, "working"):
        clock.is_over.wait(10.0)
    return clock.calls_s


def test_a_call_that_lasts_does_not_move_the_next_one(monkeypatch):
    assert calls(monkeypatch, takes_s=3.0) == [5.0, 10.0, 15.0, 20.0]


def test_moments_that_a_call_outlasts_are_left_out(monkeypatch):
    assert calls(monkeypatch, takes_s=7.0) == [5.0, 15.0]
