"""What a swap of releases promises: all replicas or none, and the old one serves on."""

import os
import time
from pathlib import Path

import pytest

from cacs_ray.errors import InputError
from cacs_ray.manifest import write_manifest
from serve import board as board_module
from serve import holder as holder_module
from serve.board import ALIVE_S, Entry, Held, ReleaseBoard
from serve.holder import Holder
from tests.unit.serve.conftest import entry

KINDS = ("gateway", "selector", "ranker")


@pytest.fixture
def board(tmp_path, make_bundle):
    board = ReleaseBoard(tmp_path / "board")
    live = make_bundle("old")
    board.begin(entry(live), KINDS)
    return board


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

    assert board.read().live.path.endswith("new")


def test_a_damaged_bundle_is_refused_before_any_replica_hears_of_it(board, make_bundle):
    root = make_bundle("new")
    (root / "weights").write_text("torn")

    with pytest.raises(InputError, match="digest"):
        board.offer(root)

    assert board.read().next is None


def trained_again(root):
    (root / "weights").write_text("trained again into the same directory")
    write_manifest(root, "spec", {})


def test_a_replica_that_starts_late_takes_no_other_bundle_for_the_live_one(
    board, make_bundle
):
    first = Replica(board, "gateway")
    trained_again(Path(board.read().live.path))

    with pytest.raises(InputError, match="stands where") as caught:
        Replica(board, "gateway")

    assert caught.value.rule == "replaced_bundle"
    # What starts again and again does not hold up the swap that mends it.
    board.offer(make_bundle("new"))
    first.holder.follow()
    assert list(board.replicas().values()) == [first.holder._said]


def test_a_release_stays_what_was_offered_whatever_its_directory_becomes(
    board, make_bundle
):
    three = replicas(board)
    offered = board.offer(root := make_bundle("new"))
    trained_again(root)
    for _ in range(2):
        for replica in three:
            replica.holder.follow()

    late = Replica(board, "ranker")

    now = board.read().live
    assert (now.bundle_id, late.live) == (offered.bundle_id, "new")
    assert (Path(now.path) / "weights").read_text() == "new"


def test_copies_that_nobody_names_are_removed_in_time(board, make_bundle, tmp_path):
    three = replicas(board)
    places = []
    for name in ("new", "newer", "newest"):
        places.append(Path(board.offer(make_bundle(name)).path).parent)
        for _ in range(2):
            for replica in three:
                replica.holder.follow()
    # Live, previous, and one that is too young to be gone.
    assert all(place.is_dir() for place in places)
    long_ago = time.time() - board_module.NEXT_S - 1
    for place in places:
        os.utime(place, (long_ago, long_ago))

    board.roll_back()

    assert [place.is_dir() for place in places] == [False, True, True]


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
    began = board.read()

    again = board.begin(
        Entry(bundle_id=began.began_with_id, path=began.began_with), KINDS
    )
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


def test_a_replica_that_loads_for_long_is_waited_for(board, make_bundle, monkeypatch):
    monkeypatch.setattr(holder_module, "BEAT_S", 0.01)
    three = replicas(board)
    gateway, ranker = three[0].holder, three[2].holder
    file = board.directory / "replicas" / f"ranker-{ranker._token}.json"
    root = make_bundle("new")

    def load_for_long(path):
        long_ago = time.time() - ALIVE_S - 1
        os.utime(file, (long_ago, long_ago))
        give_up = time.monotonic() + 10
        while file.stat().st_mtime <= long_ago + 1 and time.monotonic() < give_up:
            pass
        for replica in three[:2]:
            replica.holder.follow()
        return path

    board.offer(root)
    ranker._load = load_for_long
    ranker._take(board.read().next)
    assert board.read().live.path.endswith("old")

    ranker.follow()
    assert board.read().live.path.endswith("new")
    gateway.follow()
    assert gateway.live == "new"


def test_a_roll_back_does_not_wait_for_what_is_loading(board, make_bundle, monkeypatch):
    monkeypatch.setattr(holder_module, "BEAT_S", 0.01)
    three = replicas(board)
    board.offer(make_bundle("new"))
    for replica in (*three, *three):
        replica.holder.follow()
    gateway = three[0]
    seen = []

    def load_for_long(path):
        board.roll_back()
        give_up = time.monotonic() + 10
        while gateway.live != "old" and time.monotonic() < give_up:
            pass
        seen.append(gateway.live)
        return path

    gateway.holder._load = load_for_long
    board.offer(make_bundle("newer"))
    gateway.holder.follow()

    assert seen == ["old"]
    # What the board said before the load began does not come back.
    assert gateway.live == "old"


def test_nobody_rolls_back_to_what_a_replica_cannot_load(board, make_bundle):
    three = replicas(board)
    board.offer(make_bundle("new"))
    for replica in (*three, *three):
        replica.holder.follow()
    late = Replica(board, "gateway", refuses=["/old"])
    assert late.live == "new"

    with pytest.raises(InputError, match="golden requests"):
        board.roll_back()

    assert board.read().live.path.endswith("new")


def test_another_bundle_at_the_same_path_starts_anew(board):
    began = board.read().live
    root = Path(began.path)
    (root / "weights").write_text("trained again")
    write_manifest(root, "spec", {})

    again = board.begin(entry(root), KINDS)

    assert again.live == entry(root) != began


def test_a_file_that_is_no_replicas_holds_up_nothing(board, make_bundle):
    three = replicas(board)
    (board.directory / "replicas" / "gateway-other.json").write_text('{"kind": 1}')
    board.offer(make_bundle("new"))
    for replica in three:
        replica.holder.follow()
    assert board.read().live.path.endswith("new")


def test_a_replica_whose_file_was_lost_says_again_what_it_holds(board):
    replica = Replica(board, "gateway")
    for file in (board.directory / "replicas").iterdir():
        file.unlink()

    replica.holder.follow()

    (held,) = board.replicas().values()
    assert held.held == (board.read().live.bundle_id,)


def test_a_board_that_is_none_is_named(board):
    (board.directory / "board.json").write_text("[]")
    with pytest.raises(InputError, match=r"board\.json"):
        board.read()


def test_what_killed_replicas_left_is_removed_when_the_service_starts(
    board, make_bundle
):
    living = Replica(board, "gateway")
    dead = board.directory / "replicas" / "gateway-dead.json"
    dead.write_text("{}")
    os.utime(dead, (0, 0))

    board.begin(entry(make_bundle("other")), KINDS)

    assert not dead.exists()
    assert len(board.replicas()) == 1
    living.holder.follow()
