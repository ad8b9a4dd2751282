"""Clicks that reach another gateway than the one that showed the ad, handed on.

A click meets one gateway or another, and only the one that decided knows what it
showed first. So each leaves those that it cannot place beside the release board, and
looks through what the others left.

    metrics/<gateway>.strays   clicks of the last seconds that one gateway left

Only the comparison of predicted and real clicks needs this: the join of the logs
finds every click by itself.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from cachetools import TTLCache

from cacs_ray.data.files import write_bytes

EVERY_S: Final = 2.0
"""How often a gateway leaves its strays and looks through those of others."""
KEPT_S: Final = 5 * EVERY_S
"""So long a stray is left: others look several times, and a click counts once."""
MOST_KEPT: Final = 20_000
"""Strays of the last `KEPT_S`; of more the oldest are forgotten."""
_SUFFIX: Final = ".strays"

_logger = logging.getLogger(__name__)

Stray = tuple[str, str]
"""Request and ad."""


class StrayClicks:
    """The strays of one gateway, and those that others left.

    Args:
        directory: on a file system that all gateways of the service see; made when
            something is left.
        name: of the gateway, as in `serve.metrics_board`.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._file = directory / f"{name}{_SUFFIX}"
        self._lock = threading.Lock()
        self._strays: TTLCache[Stray, None] = TTLCache(MOST_KEPT, KEPT_S)
        self._has_left = self._leaves_badly = False
        self._seen: dict[Path, tuple[int, int]] = {}

    def note(self, request_id: str, ad_id: str) -> None:
        """Keep a click that could not be placed here; from any thread."""
        with self._lock:
            self._strays[request_id, ad_id] = None

    def leave(self) -> None:
        """Write the strays of the last seconds, over those that were left before.

        A disk that does not take them costs other gateways these clicks.
        """
        with self._lock:
            self._strays.expire()
            strays = list(self._strays)
        if not strays and not self._has_left:
            return
        try:
            write_bytes(self._file, json.dumps(strays).encode())
            self._has_left, self._leaves_badly = bool(strays), False
        except OSError as error:
            if not self._leaves_badly:
                _logger.warning("clicks not left for other gateways: %s", error)
            self._leaves_badly = True

    def of_others(self) -> Iterator[Stray]:
        """Yield what others left since one looked last; some of it more than once."""
        found = self._others()
        self._seen = {path: at for path, at in self._seen.items() if path in found}
        for path in found:
            if not self._is_new(path):
                continue
            try:
                told = json.loads(path.read_bytes())
                strays = [(str(request_id), str(ad_id)) for request_id, ad_id in told]
            except FileNotFoundError:
                # Its gateway ended meanwhile.
                continue
            except (OSError, ValueError, TypeError) as error:
                _logger.warning("clicks in %s cannot be read: %s", path, error)
                continue
            yield from strays

    def close(self) -> None:
        """Take away what was left."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)

    def _others(self) -> list[Path]:
        return [
            path
            for path in sorted(self._directory.glob(f"*{_SUFFIX}"))
            if path != self._file
        ]

    def _is_new(self, path: Path) -> bool:
        """Whether it changed since it was read; a gateway's that died is removed."""
        try:
            found = path.stat()
        except OSError:
            return False
        if time.time() - found.st_mtime > 2 * KEPT_S:
            with suppress(OSError):
                path.unlink()
            return False
        # Each write is another file: times alone are too coarse on some disks.
        mark = (found.st_mtime_ns, found.st_ino)
        is_new = self._seen.get(path) != mark
        self._seen[path] = mark
        return is_new
