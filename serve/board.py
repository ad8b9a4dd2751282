"""The release board: which bundles the replicas shall hold, and which one answers.

A directory that all nodes see, with one small file that is the truth and one file
per replica that says what it holds. No process owns it: any replica may die, the
service may be stopped and started, and the board still says what is live.

    board.json                   live, previous, next, beside, refused
    replicas/<kind>-<token>.json what one replica holds; touched while it lives
    kept/                        the bundles themselves, see `serve.kept_bundles`
    metrics/                     what gateways counted, see `serve.metrics_board`, and
                                 clicks that they hand on, see `serve.stray_clicks`

A swap in three moves: `offer` writes `next`; every replica loads it beside the live
one, replays its golden requests and says so; `settle` makes it live once all that
are alive hold it. One that refuses it takes it off the board, with its reason.
"""

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from filelock import FileLock
from pydantic import Field, ValidationError

from cacs_ray.config import Config
from cacs_ray.data.files import read_json, write_json
from cacs_ray.errors import InputError
from cacs_ray.manifest import read_manifest
from serve.kept_bundles import KeptBundles

ReplicaKind = Literal["gateway", "selector", "ranker"]

ALIVE_S: Final = 5.0
"""A replica that has not touched its file for so long does not hold up a swap."""
FORGOTTEN_S: Final = 600.0
"""One that has not for so long is gone: its file is removed."""
NEXT_S: Final = 300.0
"""A release that was not taken by then is refused: some replica cannot load it."""
_MAX_REFUSED: Final = 20


class Entry(Config):
    """One bundle on the board."""

    bundle_id: str
    path: str
    offer: str = ""
    """Tells this offer from an earlier one of the same bundle."""

    @property
    def ticket(self) -> str:
        """Unique for each offer."""
        return f"{self.bundle_id}{self.offer}"


class Refusal(Config):
    """A bundle that did not go live."""

    bundle_id: str
    reason: str


class Board(Config):
    """What the board says; the whole of `board.json`."""

    began_with: str
    """Path of the bundle that the service was given; another one starts anew."""
    began_with_id: str = ""
    """Its id: a path may hold another bundle by now."""
    kinds: tuple[ReplicaKind, ...]
    """Which kinds of replicas must hold a release before it answers."""
    live: Entry
    previous: Entry | None = None
    """Live before; held on, so that a roll-back is a matter of a moment."""
    next: Entry | None = None
    next_since_s: float = 0.0
    """When it was offered, in seconds since 1970."""
    beside: tuple[Entry, ...] = ()
    """Arms and the shadow: held, but not live."""
    refused: tuple[Refusal, ...] = ()
    """The latest ones, newest last."""
    followed: str | None = None
    """Version of the registry that was offered last, taken or refused."""
    swaps: int = Field(default=0, ge=0)
    """How often the live release changed."""

    @property
    def entries(self) -> dict[str, Entry]:
        """Every bundle that a replica shall hold, by id."""
        # An offer comes last: its own ticket is the one that is asked about.
        named = (*self.beside, self.previous, self.live, self.next)
        return {entry.bundle_id: entry for entry in named if entry is not None}

    def refusal(self, bundle_id: str) -> str | None:
        """Return why a bundle was refused, or None."""
        for refusal in reversed(self.refused):
            if refusal.bundle_id == bundle_id:
                return refusal.reason
        return None


class Held(Config):
    """What one replica says of itself."""

    kind: ReplicaKind
    held: tuple[str, ...] = ()
    refused: dict[str, str] = Field(default_factory=dict)
    """Ticket -> why this replica cannot hold that bundle."""


class ReleaseBoard:
    """The board of one service, in a directory.

    Args:
        directory: on a file system that all replicas see.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._file = self.directory / "board.json"
        self._replicas = self.directory / "replicas"
        self._bundles = KeptBundles(self.directory / "kept", unused_s=NEXT_S)

    def keep(self, path: str | Path) -> Entry:
        """Copy a bundle to the board, so that it stays what it is.

        Raises:
            InputError: not a whole bundle.
        """
        bundle_id, kept = self._bundles.keep(Path(path).resolve())
        return Entry(bundle_id=bundle_id, path=str(kept))

    def begin(
        self,
        live: Entry,
        kinds: tuple[ReplicaKind, ...],
        beside: tuple[Entry, ...] = (),
        *,
        began_with: str | None = None,
    ) -> Board:
        """Put up the board of a service that starts.

        A board that began with the same bundle goes on: what was promoted meanwhile
        stays live over a restart. What replicas of long ago left is removed, and
        bundles that nobody names any more.

        Args:
            live: what a service without a board begins with.
            kinds: which replicas must hold a release before it answers.
            beside: arms and the shadow.
            began_with: the path that `live` is a copy of; None = it is none.
        """
        self._forget_dead()
        given = began_with or live.path
        with self._locked():
            kept = self._kept(given, live.bundle_id)
            if kept is None:
                board = Board(
                    began_with=given,
                    began_with_id=live.bundle_id,
                    kinds=kinds,
                    live=live,
                    beside=beside,
                )
            else:
                board = kept.model_copy(
                    update={
                        "kinds": kinds,
                        "beside": beside,
                        # An offer of before the stop has all its time again.
                        "next_since_s": time.time(),
                    }
                )
            self._write(board)
        return board

    def read(self) -> Board:
        """Return what the board says now.

        Raises:
            InputError: there is none, or it is damaged.
        """
        try:
            return Board.model_validate(read_json(self._file))
        except ValidationError as error:
            raise InputError(
                f"is no release board: {error.errors()[0]['msg']}",
                source=str(self._file),
                rule="board",
            ) from error

    def offer(self, path: str | Path) -> Entry:
        """Ask all replicas to take a bundle; it goes live when they have.

        Raises:
            InputError: not a whole bundle, it is live already, or another one is on
                its way.
        """
        return self.propose(self.keep(path))

    def propose(self, kept: Entry) -> Entry:
        """Ask all replicas to take what `keep` has copied, as `offer`.

        Raises:
            InputError: it is live already, or another one is on its way.
        """
        entry = kept.model_copy(update={"offer": f"-{uuid.uuid4().hex[:8]}"})
        bundle_id = entry.bundle_id
        with self._locked():
            board = self.read()
            if board.live.bundle_id == bundle_id:
                raise InputError(
                    f"release {bundle_id} is live already", rule="already_live"
                )
            if board.next is not None and board.next.bundle_id != bundle_id:
                raise InputError(
                    f"release {board.next.bundle_id} is on its way", rule="swap_running"
                )
            refused = tuple(r for r in board.refused if r.bundle_id != bundle_id)
            self._write(
                board.model_copy(
                    update={
                        "next": entry,
                        "next_since_s": time.time(),
                        "refused": refused,
                    }
                )
            )
        return entry

    def roll_back(self) -> Entry:
        """Make the release before the live one live again, at once.

        Raises:
            InputError: there was none, or a replica cannot load it any more.
        """
        with self._locked():
            board = self.read()
            if board.previous is None:
                raise InputError("there was no release before", rule="no_previous")
            if reason := _refusal(list(self._alive()), board.previous.ticket):
                raise InputError(
                    f"the release before cannot be held, {reason}", rule="not_held"
                )
            self._write(
                board.model_copy(
                    update={
                        "live": board.previous,
                        "previous": board.live,
                        "next": None,
                        "swaps": board.swaps + 1,
                    }
                )
            )
            return board.previous

    def note_followed(self, version: str) -> None:
        """Keep which version of the registry was offered last."""
        with self._locked():
            self._write(self.read().model_copy(update={"followed": version}))

    def say(self, token: str, held: Held) -> None:
        """Write what a replica holds."""
        write_json(self._replica_file(held.kind, token), held.model_dump(mode="json"))

    def touch(self, kind: ReplicaKind, token: str) -> bool:
        """Say that a replica lives; False when the board forgot what it holds."""
        try:
            os.utime(self._replica_file(kind, token))
        except FileNotFoundError:
            return False
        return True

    def leave(self, kind: ReplicaKind, token: str) -> None:
        """Forget a replica that stops."""
        self._replica_file(kind, token).unlink(missing_ok=True)

    def settle(self) -> Board:
        """Make `next` live if all that live hold it, refuse it if one cannot.

        Returns:
            The board, changed or not.
        """
        with self._locked():
            board = self.read()
            if board.next is None:
                return board
            bundle_id = board.next.bundle_id
            replicas = list(self._alive())
            reason = _refusal(replicas, board.next.ticket)
            if reason is None and time.time() - board.next_since_s > NEXT_S:
                missing = [
                    kind for kind, held in replicas if bundle_id not in held.held
                ]
                reason = f"not loaded within {NEXT_S:.0f} s by {sorted(set(missing))}"
            changes: dict[str, object] = {}
            if reason is not None:
                refusal = Refusal(bundle_id=bundle_id, reason=reason)
                changes = {
                    "next": None,
                    "refused": (*board.refused, refusal)[-_MAX_REFUSED:],
                }
            elif _is_held(replicas, board.kinds, bundle_id):
                changes = {
                    "next": None,
                    "previous": board.live,
                    "live": board.next,
                    "swaps": board.swaps + 1,
                }
            if changes:
                board = board.model_copy(update=changes)
                self._write(board)
        return board

    def replicas(self) -> Mapping[str, Held]:
        """Return what every replica that lives says, by file name."""
        return {name: held for name, held in self._alive_by_name()}

    def _alive(self) -> Iterator[tuple[ReplicaKind, Held]]:
        for _, held in self._alive_by_name():
            yield held.kind, held

    def _alive_by_name(self) -> Iterator[tuple[str, Held]]:
        if not self._replicas.is_dir():
            return
        for path in sorted(self._replicas.glob("*.json")):
            try:
                age_s = time.time() - path.stat().st_mtime
                if age_s <= ALIVE_S:
                    yield path.stem, Held.model_validate(read_json(path))
            except (FileNotFoundError, InputError, ValidationError):
                # It left between the listing and the reading, or is no replica's.
                continue

    def _forget_dead(self) -> None:
        """Remove what replicas left that were killed; one that lives says it again."""
        for path in self._replicas.glob("*.json"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > FORGOTTEN_S:
                    path.unlink()

    def _kept(self, given: str, bundle_id: str) -> Board | None:
        """Return the board of an earlier start with the same bundle, if it is whole."""
        if not self._file.is_file():
            return None
        board = self.read()
        began = board.began_with, board.began_with_id or bundle_id
        is_same = began == (given, bundle_id) and _is_there(board.live)
        return board if is_same else None

    def _replica_file(self, kind: ReplicaKind, token: str) -> Path:
        return self._replicas / f"{kind}-{token}.json"

    def _write(self, board: Board) -> None:
        write_json(self._file, board.model_dump(mode="json"))
        self._bundles.drop_unused(board.entries)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(self.directory / "board.lock", timeout=30):
            yield


def _is_there(entry: Entry) -> bool:
    """Whether the bundle still stands at its path, and not another one."""
    try:
        return bool(read_manifest(Path(entry.path))["bundle_id"] == entry.bundle_id)
    except InputError:
        return False


def _refusal(replicas: list[tuple[ReplicaKind, Held]], ticket: str) -> str | None:
    for kind, held in replicas:
        if ticket in held.refused:
            return f"{kind}: {held.refused[ticket]}"
    return None


def _is_held(
    replicas: list[tuple[ReplicaKind, Held]],
    kinds: tuple[ReplicaKind, ...],
    bundle_id: str,
) -> bool:
    """Every replica holds it, and there is one of each kind."""
    alive = {kind for kind, _ in replicas}
    all_hold = all(bundle_id in held.held for _, held in replicas)
    return all_hold and set(kinds) <= alive
