"""What following the registry promises: each champion is offered once, none lost."""

from types import SimpleNamespace

import pytest

from cacs_ray.errors import InputError
from cacs_ray.registry import Release
from serve.follower import Follower


@pytest.fixture
def registry():
    class Registry:
        champion = None
        is_away = False

        def find(self):
            if self.is_away:
                raise InputError("MLflow is away", rule="reachable")
            return self.champion

        def fetch(self, release, cache):
            return cache / release.bundle_id

    return Registry()


@pytest.fixture
def board():
    board = SimpleNamespace(offered=[], refuses=None, followed=None)
    board.read = lambda: board
    board.note_followed = lambda version: setattr(board, "followed", version)

    def offer(path):
        board.offered.append(path.name)
        if board.refuses:
            raise InputError("refused", rule=board.refuses)

    board.offer = offer
    return board


@pytest.fixture
def follower(board, registry, tmp_path):
    made = Follower(board, lambda: registry, tmp_path, poll_s=3600)
    made.stop()
    return made


def champion(version, bundle_id):
    return Release(version, bundle_id, {})


def test_each_champion_is_offered_once(follower, board, registry):
    follower.follow()
    for release in (champion("1", "a"), champion("1", "a"), champion("2", "b")):
        registry.champion = release
        follower.follow()
    # A roll-back in the registry makes an older version the champion again.
    registry.champion = champion("1", "a")
    follower.follow()
    assert board.offered == ["a", "b", "a"]


def test_what_is_live_already_is_not_offered_for_ever(follower, board, registry):
    board.refuses = "already_live"
    registry.champion = champion("1", "a")
    for _ in range(3):
        follower.follow()
    assert board.offered == ["a"]


def test_one_that_cannot_be_offered_now_is_offered_again(follower, board, registry):
    board.refuses = "swap_running"
    registry.champion = champion("1", "a")
    with pytest.raises(InputError):
        follower.follow()
    board.refuses = None
    follower.follow()
    assert board.offered == ["a", "a"]


def test_a_registry_that_was_away_is_followed_when_it_is_back(
    follower, board, registry
):
    registry.is_away = True
    registry.champion = champion("1", "a")
    with pytest.raises(InputError):
        follower.follow()
    registry.is_away = False
    follower.follow()
    assert board.offered == ["a"]


def test_what_an_operator_rolled_back_is_not_offered_by_a_new_process(
    follower, board, registry, tmp_path
):
    registry.champion = champion("1", "a")
    follower.follow()

    again = Follower(board, lambda: registry, tmp_path, poll_s=3600)
    again.stop()
    again.follow()

    assert board.offered == ["a"]
