"""A loop goes on where it stopped, and serves what the gate let pass."""

from types import SimpleNamespace

import pytest

from cacs_ray.errors import InputError
from cacs_ray.live.loop import FIRST, Loop
from cacs_ray.live.plan import ARMS, NUM_SLOTS, arms_of


class TalliedLoop(Loop):
    """A loop whose days cost nothing; it may be broken off, and refuse a release."""

    def __init__(self, root, arm="greedy", *, dies_on=None, refused=()):
        of = SimpleNamespace(days=range(3, 7))
        super().__init__(arm, ARMS[arm], of, root)
        object.__setattr__(self, "played", [])
        object.__setattr__(self, "dies_on", dies_on)
        object.__setattr__(self, "refused", refused)

    def _day(self, day, served):
        if day == self.dies_on:
            raise KeyboardInterrupt
        self.played.append((day, served))
        passed = day not in self.refused
        name = self.directory(day).name
        return {"served": served, "champion": name if passed else served, "day": day}


def test_a_day_is_served_by_the_release_of_the_evening_before(tmp_path):
    loop = TalliedLoop(tmp_path)
    list(loop.play())
    assert loop.played == [(3, FIRST), (4, "day-03"), (5, "day-04"), (6, "day-05")]


def test_what_the_gate_refuses_does_not_serve(tmp_path):
    loop = TalliedLoop(tmp_path, refused=(3, 5))
    list(loop.play())
    assert [served for _, served in loop.played] == [FIRST, FIRST, "day-04", "day-04"]


def test_a_loop_that_was_killed_goes_on_with_the_day_it_died_in(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        list(TalliedLoop(tmp_path, dies_on=5, refused=(4,)).play())
    again = TalliedLoop(tmp_path, refused=(4,))
    days = list(again.play())
    assert again.played == [(5, "day-03"), (6, "day-05")]
    assert [(day, is_old) for day, _, is_old in days] == [
        (3, True),
        (4, True),
        (5, False),
        (6, False),
    ]
    assert [outcome["day"] for _, outcome, _ in days] == [3, 4, 5, 6]


def test_a_day_of_other_settings_is_played_again(tmp_path):
    list(TalliedLoop(tmp_path).play())
    other = TalliedLoop(tmp_path, "epsilon")
    list(other.play())
    assert len(other.played) == 4


def test_arms_are_settings_of_decisions():
    assert {arm.settings.num_slots for arm in ARMS.values()} == {NUM_SLOTS}
    assert ARMS["greedy"].settings.epsilon == 0
    assert ARMS["epsilon"].settings.epsilon == 0.1
    assert ARMS["thompson_content"].settings.thompson_prior == "content"


def test_an_unknown_arm_is_refused_with_those_there_are():
    with pytest.raises(InputError, match=r"no arm 'greedily'.*'greedy'"):
        arms_of(("greedily",))
