"""Only what descends from a process that we started is found."""

import os
import signal
import threading

from cacs_ray.promises import processes
from cacs_ray.promises.processes import Actor, Killings, actors_of, killing


def test_replicas_and_proxies_below_a_process_are_found(monkeypatch):
    titles = {
        10: "serve run",
        11: "raylet",
        12: "ray::ServeReplica:ads:Gateway",
        13: "ray::ServeReplica:ads:Ranker.pctr",
        14: "ray::ProxyActor",
        15: "ray::IDLE",
        16: "ray::HAProxyManager.update_draining",
        22: "ray::ServeReplica:ads:Gateway",
    }
    parents = {10: 1, 11: 10, 12: 11, 13: 11, 14: 11, 15: 11, 16: 11, 22: 1}
    monkeypatch.setattr(processes, "_parents", lambda: parents)
    monkeypatch.setattr(processes, "_arguments", lambda pid: [titles[pid]])

    assert actors_of(10) == [
        Actor(12, "Gateway"),
        Actor(13, "Ranker"),
        Actor(14, "proxy"),
        Actor(16, "HAProxy"),
    ]
    assert actors_of(999) == []


def test_this_process_weighs_something_and_an_ended_one_nothing():
    assert Actor(os.getpid(), "self").resident_bytes() > 2**20
    assert Actor(2**22 + 1, "ended").resident_bytes() == 0


def test_an_ended_process_is_not_counted_as_killed():
    assert not Actor(2**22 + 1, "ended").kill(signal.SIGTERM)


def test_the_last_killing_is_over_when_the_body_is():
    with killing(list, every_s=60.0) as killed:
        pass
    assert str(killed) == "none killed"
    some = [Actor(1, "Ranker"), Actor(2, "Gateway"), Actor(3, "Ranker")]
    assert str(Killings(some)) == "3 killed: 1 Gateway, 2 Ranker"


def test_no_more_are_killed_than_told(monkeypatch):
    monkeypatch.setattr(Actor, "kill", lambda *_: True)
    asked = threading.Event()

    def find():
        if len(killed.actors) == 1:
            asked.set()
        return [Actor(1, "Gateway")]

    with killing(find, every_s=0.001, most=1) as killed:
        asked.wait(0.1)
    assert len(killed.actors) == 1
    assert not asked.is_set()
