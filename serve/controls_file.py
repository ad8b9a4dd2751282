"""The operator's controls: a YAML file that is read again when it changes."""

import logging
import threading
import time
from pathlib import Path
from typing import Final

import yaml
from cachetools import LRUCache
from pydantic import ValidationError

from cacs_ray.decision.controls import ControlRows, Controls, control_rows
from cacs_ray.errors import InputError
from serve.release import Release

LOOK_S: Final = 1.0
"""How often the file is looked at."""
_RELEASES_KEPT: Final = 8

_logger = logging.getLogger(__name__)


def read_controls(path: str | Path) -> Controls:
    """Read controls.

    Raises:
        InputError: it cannot be read, is empty, is not YAML, or says what there is
            not.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if not text.strip():
            # Most likely being written now: it must not lift all that was said.
            raise InputError(
                "is empty; {} says nothing", source=str(path), rule="empty_controls"
            )
        said = yaml.safe_load(text)
        return Controls.model_validate(said or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise InputError(
            f"cannot be read: {error}", source=str(path), rule="readable"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            first["msg"],
            source=str(path),
            field=".".join(str(part) for part in first["loc"]),
            rule=first["type"],
        ) from error


class ControlsFile:
    """Controls as they are now, by the rows of each release.

    A new file that is wrong changes nothing: it is logged, and the controls before
    it hold.

    Raises:
        InputError: the file is wrong from the start.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._stamp = self._stamp_now()
        self._controls = read_controls(path)
        self._looked_s = time.monotonic()
        self._rows: LRUCache[str, ControlRows] = LRUCache(_RELEASES_KEPT)
        self._lock = threading.Lock()

    def rows(self, release: Release) -> ControlRows:
        """Return what holds for a release."""
        with self._lock:
            self._look()
            found = self._rows.get(release.bundle_id)
            if found is None:
                catalogue = release.catalogue
                found = control_rows(
                    self._controls, catalogue.creative_ids, catalogue.ad_ids
                )
                self._rows[release.bundle_id] = found
            return found

    def _look(self) -> None:
        if time.monotonic() - self._looked_s < LOOK_S:
            return
        self._looked_s = time.monotonic()
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._controls = read_controls(self._path)
        except InputError as error:
            _logger.warning("controls not taken, those before hold: %s", error)
        else:
            self._rows.clear()

    def _stamp_now(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size
