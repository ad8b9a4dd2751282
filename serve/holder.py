"""The releases that one replica holds, loaded beside each other."""

import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from cacs_ray.errors import InputError
from cacs_ray.manifest import read_manifest
from serve.board import Board, Entry, Held, ReleaseBoard, ReplicaKind
from serve.gently import always, gently

POLL_S: Final = 0.25
"""How often a replica looks at the board."""
BEAT_S: Final = POLL_S
"""How often it does while it loads a bundle; well below `board.ALIVE_S`."""

_logger = logging.getLogger(__name__)

Thing = TypeVar("Thing", covariant=True)


class Holds(Protocol[Thing]):
    """What stages and gateway ask of a holder."""

    @property
    def live(self) -> Thing:
        """The release that answers requests without an arm of their own."""
        ...

    def get(self, bundle_id: str) -> Thing | None:
        """Return a held release, None if this replica does not hold it."""
        ...

    @property
    def held(self) -> Mapping[str, Thing]:
        """All of them, by bundle id."""
        ...


class OneRelease(Generic[Thing]):
    """A holder of one release that never changes."""

    def __init__(self, bundle_id: str, thing: Thing) -> None:
        self.live = thing
        self.held: Mapping[str, Thing] = {bundle_id: thing}

    def get(self, bundle_id: str) -> Thing | None:
        """Return the release if it is this one."""
        return self.held.get(bundle_id)


class Holder(Generic[Thing]):
    """Follows the board: loads what it names, lets go of what it does not.

    Loading goes on in a thread of its own, so that requests are answered meanwhile,
    and gently; what a replica starts with, before there are any, is loaded at full
    speed.

    Args:
        board: of the service.
        kind: of this replica.
        load: opens a bundle and tries it out; what it raises refuses the bundle.
        is_busy: whether this replica is asked anything now.

    Raises:
        InputError: the live release cannot be loaded, or another bundle stands in its
            place.
    """

    def __init__(
        self,
        board: ReleaseBoard,
        kind: ReplicaKind,
        load: Callable[[str], Thing],
        *,
        is_busy: Callable[[], bool] = always,
    ) -> None:
        self._board, self._kind, self._load = board, kind, load
        self._token = uuid.uuid4().hex[:12]
        self._refused: dict[str, str] = {}
        self._said: Held | None = None
        self._beside: Callable[[], AbstractContextManager[None]] = nullcontext
        self._things: dict[str, Thing] = {}
        self._stops = threading.Event()
        # Said before the board is read: a swap that starts now waits for us.
        self._board.say(self._token, Held(kind=kind))
        board_now = self._board.read()
        try:
            with self._beating():
                self._things = {
                    board_now.live.bundle_id: self._open(board_now.live),
                }
        except BaseException:
            # Started again and again it would hold up the swap that mends it.
            self._board.leave(kind, self._token)
            raise
        self._live_id = board_now.live.bundle_id
        self.follow()
        self._beside = partial(gently, is_busy)
        self._thread = threading.Thread(
            target=self._run, name=f"holder-{kind}", daemon=True
        )
        self._thread.start()

    @property
    def live(self) -> Thing:
        """The live release."""
        return self._things[self._live_id]

    @property
    def held(self) -> Mapping[str, Thing]:
        """Every release that is loaded, by bundle id."""
        return self._things

    def get(self, bundle_id: str) -> Thing | None:
        """Return a held release, None if this replica does not hold it."""
        return self._things.get(bundle_id)

    def follow(self) -> None:
        """Do once what the board says, and tell it."""
        for entry in self._board.read().entries.values():
            self._take(entry)
        # Read again: to load takes long, and the board may say otherwise by now.
        board = self._board.read()
        self._become(board)
        kept = {
            bundle_id: thing
            for bundle_id, thing in self._things.items()
            if bundle_id in board.entries or bundle_id == self._live_id
        }
        # Replaced whole: a request that reads it now sees one or the other.
        self._things = kept
        tickets = {entry.ticket for entry in board.entries.values()}
        self._refused = {k: v for k, v in self._refused.items() if k in tickets}
        held = Held(kind=self._kind, held=tuple(kept), refused=self._refused)
        if held != self._said or not self._board.touch(self._kind, self._token):
            self._board.say(self._token, held)
            self._said = held
        if board.next is not None:
            self._become(self._board.settle())

    @property
    def is_following(self) -> bool:
        """Whether the board is looked at."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Follow no more and leave the board."""
        self._stops.set()
        self._board.leave(self._kind, self._token)

    def _take(self, entry: Entry) -> None:
        if entry.bundle_id in self._things or entry.ticket in self._refused:
            return
        try:
            with self._beating(), self._beside():
                thing = self._open(entry)
        except Exception as error:  # noqa: BLE001 - whatever it is, the old one serves on
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            self._refused[entry.ticket] = f"{kind}{error}"
            _logger.warning("release %s refused: %s", entry.bundle_id, error)
        else:
            self._things = {**self._things, entry.bundle_id: thing}

    def _open(self, entry: Entry) -> Thing:
        """Load what an entry names, and nothing else that stands there by now.

        Under the name of another bundle, the answers of two would be mixed.
        """
        found = read_manifest(Path(entry.path))["bundle_id"]
        if found != entry.bundle_id:
            raise InputError(
                f"another bundle, {found}, stands where {entry.bundle_id} was: offer "
                "that one again, or start the service anew",
                source=entry.path,
                rule="replaced_bundle",
            )
        return self._load(entry.path)

    def _become(self, board: Board) -> None:
        if board.live.bundle_id in self._things:
            self._live_id = board.live.bundle_id

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Live on while a bundle is loaded, and follow a roll-back meanwhile.

        A replica that fell silent would not be waited for, and requests would meet
        stages that do not hold the release that is live.
        """
        is_loaded = threading.Event()
        thread = threading.Thread(target=self._beat, args=(is_loaded,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_loaded.set()
            thread.join()

    def _beat(self, is_loaded: threading.Event) -> None:
        while not is_loaded.wait(BEAT_S):
            try:
                self._board.touch(self._kind, self._token)
                self._become(self._board.read())
            except Exception:
                _logger.exception("the release board cannot be read, will retry")

    def _run(self) -> None:
        while not self._stops.wait(POLL_S):
            try:
                self.follow()
            except Exception:
                # A file system that is away must not end the following for ever.
                _logger.exception("the release board cannot be followed, will retry")
