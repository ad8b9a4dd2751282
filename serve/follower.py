"""Follows the champion of MLflow's registry onto the release board."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from cacs_ray.errors import InputError
from cacs_ray.registry import Registry, Release
from serve.board import ReleaseBoard

POLL_S: Final = 5.0

_logger = logging.getLogger(__name__)


class Champions(Protocol):
    """What is asked of a registry; `cacs_ray.registry.Registry` is one."""

    def find(self) -> Release | None:
        """Return the champion, None if there is none yet."""
        ...

    def fetch(self, release: Release, cache: Path) -> Path:
        """Return a directory with its files, checked."""
        ...


class Follower:
    """Offers each new champion to the board once; plain Python, a deployment in `app`.

    A process of its own: talking to MLflow is slow, and its client is large. While
    MLflow is away the service goes on with what is live.

    Args:
        board: of the service.
        open_registry: opens the registry; asked again after it failed.
        cache: where bundles from elsewhere are kept.
    """

    def __init__(
        self,
        board: ReleaseBoard,
        open_registry: Callable[[], Champions],
        cache: Path,
        *,
        poll_s: float = POLL_S,
    ) -> None:
        self._board, self._open, self._cache = board, open_registry, cache
        self._poll_s = poll_s
        self._registry: Champions | None = None
        self._stops = threading.Event()
        threading.Thread(target=self._run, name="follower", daemon=True).start()

    def follow(self) -> None:
        """Offer the champion if it is not the version that was offered last.

        Raises:
            InputError: MLflow is away, or the files are not those that were
                registered; it is tried again.
        """
        if self._registry is None:
            self._registry = self._open()
        champion = self._registry.find()
        # On the board: what an operator rolled back is not offered again because this
        # process starts again.
        if champion is None or champion.version == self._board.read().followed:
            return
        path = self._registry.fetch(champion, self._cache)
        try:
            self._board.offer(path)
        except InputError as error:
            if error.rule != "already_live":
                raise
        self._board.note_followed(champion.version)
        _logger.warning(
            "version %s, release %s, is offered", champion.version, champion.bundle_id
        )

    def stop(self) -> None:
        """Follow no more."""
        self._stops.set()

    def _run(self) -> None:
        while not self._stops.is_set():
            try:
                self.follow()
            except Exception as error:  # noqa: BLE001 - tried again, whatever it was
                _logger.warning("the champion cannot be followed: %s", error)
            self._stops.wait(self._poll_s)


def open_registry(uri: str | None, model: str) -> Registry:
    """Return MLflow's registry of a model."""
    return Registry(uri, model)
