"""A measurement says how fast the machine was meanwhile."""

import time

from cacs_ray.promises import machine_pace as measured
from cacs_ray.promises.machine_pace import MachinePace, machine_pace


def test_the_same_work_is_timed_again_and_again(monkeypatch):
    took = iter([0.002, *[0.001] * 8, *[0.003] * 10_000])
    monkeypatch.setattr(measured, "_work", lambda: next(took))
    ends = time.monotonic() + 20
    with machine_pace(every_s=0.0001) as pace:
        while len(pace.seconds) < 100:
            assert time.monotonic() < ends
    assert pace.seconds[:3] == [0.002, 0.001, 0.001]
    assert "took 3.00 x its shortest time" in str(pace)


def test_real_work_takes_time_of_the_processor():
    with machine_pace(every_s=0.0001) as pace:
        ends = time.monotonic() + 20
        while not pace.seconds:
            assert time.monotonic() < ends
    assert pace.seconds[0] > 1e-5


def test_without_a_sample_nothing_is_claimed():
    assert str(MachinePace()) == "pace of the machine unknown"
