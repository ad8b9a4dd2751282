"""Stages of a run: each writes one directory, whole or not at all, and only once.

A stage's directory carries `stage.json` with a key: a digest of everything it was
made from. Started again, a run goes on after the last stage whose key still holds.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cacs_ray import __version__
from cacs_ray.data.files import atomic_directory, read_json
from cacs_ray.recipes.memory import weighing
from cacs_ray.recipes.shown import figure
from cacs_ray.tracking.client import Run
from cacs_ray.tracking.store import NOTE_TAG

log = logging.getLogger(__name__)

STAGES: Mapping[str, str] = {
    "validate": "check every row of the log",
    "features": "fit features on the training window, encode all windows",
    "teacher": "train the ranker with all features",
    "soft_labels": "let the teacher score every creative of every logged list",
    "student": "train the selector from clicks and soft labels",
    "ranker": "train the serving ranker on the selector's creative vectors",
    "bundle": "calibrate, and put together what serving needs",
    "evaluate": "judge the bundle on the test window, register it",
}
"""What each stage does, in order."""

WALL = "wall"
"""Group of what took how long, in MLflow."""

PEAK_MEMORY = f"{WALL}/peak_memory_mb"
"""Of a stage, as `recipes.memory` weighs it."""

LAST_STAGE = "evaluate"

StageBody = Callable[[Path, Run], Mapping[str, Any]]
"""Fills a directory, logs to a run, returns figures for `stage.json`."""


@dataclass
class Stages:
    """Runs stages in order under one directory and one parent run.

    Args:
        work: where the stages' directories stand.
        run: the parent run; each executed stage becomes a child of it.
        notes: what each stage does, in words, for who looks at its run.
    """

    work: Path
    run: Run
    notes: Mapping[str, str] = field(default_factory=dict)
    summaries: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Figures by stage, seconds included."""
    _keys: dict[str, str] = field(default_factory=dict)
    _has_run: bool = False

    def key(self, name: str) -> str:
        """Digest of all that a finished stage was made from."""
        return self._keys[name]

    def stage(
        self,
        name: str,
        made_from: Mapping[str, Any],
        body: StageBody,
        *,
        after: tuple[str, ...] = (),
        leaves: tuple[Path, ...] = (),
    ) -> Path:
        """Run one stage, unless the same one is there already.

        Args:
            name: directory under `work` and name of the child run.
            made_from: JSON values that decide the outcome, beside earlier stages.
            body: does the work.
            after: stages whose outcome this one reads.
            leaves: what it writes elsewhere; when missing, the stage runs again.

        Returns:
            The stage's directory.
        """
        parts = {
            "version": __version__,
            "from": made_from,
            "after": [self._keys[earlier] for earlier in after],
        }
        text = json.dumps(parts, sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._keys[name] = key
        directory = self.work / name
        marker = directory / "stage.json"
        is_whole = marker.is_file() and all(path.exists() for path in leaves)
        if is_whole and (kept := read_json(marker))["key"] == key:
            log.info("%-11s done before, reused", name)
            self.summaries[name] = kept["summary"]
            return directory
        self._tell_where(name)
        log.info("%-11s ...", name)
        started = time.monotonic()
        with (
            self.run.child(name, self._tags(name)) as child,
            atomic_directory(directory) as partial,
        ):
            with weighing() as weight:
                summary = dict(body(partial, child))
            summary["seconds"] = round(time.monotonic() - started, 2)
            cost = {
                f"{WALL}/stage_seconds": summary["seconds"],
                PEAK_MEMORY: weight.peak_mb,
            }
            child.metrics(cost, step=0)
            text = json.dumps({"key": key, "summary": summary}, default=str)
            (partial / "stage.json").write_text(text)
        log.info("%-11s %s", name, _in_short(summary))
        self.summaries[name] = summary
        return directory

    def _tell_where(self, name: str) -> None:
        """Say once where a run goes on that was started before."""
        if self.summaries and not self._has_run:
            done = ", ".join(self.summaries)
            log.info("finished before: %s; the run goes on with %s", done, name)
        self._has_run = True

    def tell(self, name: str) -> None:
        """Log a stage that ended before there was a run to log to.

        However often it is told, it stays one child of its run.
        """
        key = f"{self.run.id} {name}"
        with self.run.child(name, self._tags(name), key=key) as child:
            summary = dict(self.summaries[name])
            child.metrics({f"{WALL}/stage_seconds": summary.pop("seconds")}, step=0)
            child.metrics({f"data/{n}": value for n, value in summary.items()}, step=0)

    def _tags(self, name: str) -> dict[str, str]:
        return {"stage": name, NOTE_TAG: self.notes.get(name, "")}


def _in_short(summary: Mapping[str, Any]) -> str:
    """Say a stage's figures on one line; what was fitted to is not told again."""
    parts = [
        f"{name.removeprefix('validation/')} {figure(value)}"
        for name, value in summary.items()
        if isinstance(value, int | float)
        and name != "seconds"
        and not name.startswith("train/")
    ]
    return "  ".join([f"{summary['seconds']:.1f} s", *parts])
