"""What a swap of releases promises: all replicas or none, and the old one serves on."""

import json
import os
import time

import pytest

from cacs_ray.errors import InputError
from cacs_ray.manifest import write_manifest
from serve import board as board_module
from serve.board import ALIVE_S, Entry, Held, ReleaseBoard
from serve.holder import Holder

KINDS = ("gateway", "selector", "ranker")


@pytest.fixture
def make_bundle(tmp_path):
    def make(name):
        root = tmp_path / "releases" / name
        root.mkdir(parents=True)
        (root / "weights").write_text(name)
        write_manifest(root, "spec", {})
        return root

    return make


@pytest.fixture
def board(tmp_path, make_bundle):
    board = ReleaseBoard(tmp_path / "board")
    live = make_bundle("old")
    board.begin(entry(live), KINDS)
    return board


def entry(root):
    manifest = json.loads((root / "manifest.json").read_text())
    return Entry(bundle_id=manifest["bundle_id"], path=str(root))


class Replica:
    """One replica that follows by hand; its thread is stopped at once."""

    def __init__(self, board, kind, *, refuses=()):
        self.refuses = refuses
        self.loaded = []
        self.holder = Holder(board, kind, self.load)
        self.holder._stops.set()
        self.holder._thread.join()

    def load(self, path):
        if any(path.endswith(name) for name in self.refuses):
            raise InputError("golden requests get other scores", rule="golden")
        self.loaded.append(path.rpartition("/")[2])
        return self.loaded[-1]

    @property
    def live(self):
        return self.holder.live


def replicas(board, **options):
    return [Replica(board, kind, **options) for kind in KINDS]


def test_a_release_goes_live_when_the_last_replica_holds_it(board, make_bundle):
    gateway, selector, ranker = replicas(board)
    board.offer(make_bundle("new"))

    for replica in (gateway, selector):
        replica.holder.follow()
        assert board.read().live.path.endswith("old")
    ranker.holder.follow()

    assert board.read().live.path.endswith("new")
    assert ranker.live == "new"
    # The others see it when they look next; both can answer with either meanwhile.
    assert gateway.live == "old"
    gateway.holder.follow()
    assert gateway.live == "new"
    assert set(gateway.holder.held.values()) == {"old", "new"}


def test_a_replica_that_refuses_takes_the_release_off_the_board(board, make_bundle):
    gateway, selector, ranker = replicas(board, refuses=["/new"])
    offered = board.offer(make_bundle("new"))

    for replica in (gateway, selector, ranker):
        replica.holder.follow()

    now = board.read()
    assert now.live.path.endswith("old")
    assert now.next is None
    assert "golden requests" in now.refusal(offered.bundle_id)
    assert [replica.live for replica in (gateway, selector, ranker)] == ["old"] * 3


def test_a_release_that_was_refused_may_be_offered_again(board, make_bundle):
    three = replicas(board, refuses=["/new"])
    root = make_bundle("new")
    board.offer(root)
    three[0].holder.follow()
    for replica in three:
        replica.refuses = ()

    board.offer(root)
    for _ in range(2):
        for replica in three:
            replica.holder.follow()

    assert board.read().live.path == str(root)


def test_a_damaged_bundle_is_refused_before_any_replica_hears_of_it(board, make_bundle):
    root = make_bundle("new")
    (root / "weights").write_text("torn")

    with pytest.raises(InputError, match="digest"):
        board.offer(root)

    assert board.read().next is None


def test_rolling_back_changes_places_and_loads_nothing(board, make_bundle):
    three = replicas(board)
    board.offer(make_bundle("new"))
    for _ in range(2):
        for replica in three:
            replica.holder.follow()
    loaded = [list(replica.loaded) for replica in three]

    board.roll_back()
    for replica in three:
        replica.holder.follow()

    assert [replica.live for replica in three] == ["old"] * 3
    assert [replica.loaded for replica in three] == loaded
    assert board.read().previous.path.endswith("new")
    assert board.read().swaps == 2


def test_there_is_nothing_to_roll_back_to_at_first(board):
    with pytest.raises(InputError, match="no_previous"):
        board.roll_back()


def test_one_swap_at_a_time(board, make_bundle):
    board.offer(make_bundle("new"))
    with pytest.raises(InputError, match="swap_running"):
        board.offer(make_bundle("newer"))


def test_a_replica_that_starts_during_a_swap_is_waited_for(board, make_bundle):
    three = replicas(board)
    board.offer(make_bundle("new"))
    board.say("late", Held(kind="gateway"))

    for replica in three:
        replica.holder.follow()
    assert board.read().live.path.endswith("old")

    Replica(board, "gateway")
    board.leave("gateway", "late")
    three[0].holder.follow()
    assert board.read().live.path.endswith("new")


def test_a_dead_replica_does_not_hold_up_a_swap(board, make_bundle):
    three = replicas(board)
    board.say("dead", Held(kind="ranker"))
    long_ago = time.time() - ALIVE_S - 1
    os.utime(board.directory / "replicas" / "ranker-dead.json", (long_ago, long_ago))

    board.offer(make_bundle("new"))
    for replica in three:
        replica.holder.follow()

    assert board.read().live.path.endswith("new")


def test_a_kind_without_a_living_replica_holds_up_a_swap(board, make_bundle):
    gateway = Replica(board, "gateway")
    board.offer(make_bundle("new"))
    gateway.holder.follow()
    assert board.read().live.path.endswith("old")


def test_a_release_that_nobody_takes_is_refused_in_the_end(
    board, make_bundle, monkeypatch
):
    gateway = Replica(board, "gateway")
    offered = board.offer(make_bundle("new"))
    monkeypatch.setattr(board_module, "NEXT_S", -1.0)

    gateway.holder.follow()

    assert "not loaded within" in board.read().refusal(offered.bundle_id)


def test_a_service_that_starts_again_goes_on_with_what_was_live(board, make_bundle):
    three = replicas(board)
    board.offer(make_bundle("new"))
    for replica in three:
        replica.holder.follow()
    began = board.read().began_with

    again = board.begin(Entry(bundle_id="any", path=began), KINDS)
    assert again.live.path.endswith("new")

    other = make_bundle("other")
    assert board.begin(entry(other), KINDS).live.path == str(other)


def test_what_nobody_needs_is_let_go(board, make_bundle):
    three = replicas(board)
    for name in ("second", "third"):
        board.offer(make_bundle(name))
        for _ in range(2):
            for replica in three:
                replica.holder.follow()
    assert set(three[0].holder.held.values()) == {"second", "third"}
