"""Runs, as the code that does the work sees them: calls that cost nothing.

with Tracker.open(None, "upworthy", out / "tracking") as tracker:
    with tracker.run("cycle", tags={"stage": "cycle"}) as run:
        run.params({"epochs": 3})
        with run.child("student") as student:
            student.metrics({"val/auc": 0.71}, step=1)
"""

import hashlib
import json
import logging
import math
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from cacs_ray.tracking.delivery import Delivery, now_ms
from cacs_ray.tracking.source import code_tags
from cacs_ray.tracking.spool import Record
from cacs_ray.tracking.store import default_uri
from cacs_ray.tracking.views import ML_MODE, View

_log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]

_MAX_PARAM, _MAX_TAG, _MAX_KEY = 500, 5000, 250


class Run:
    """One run; everything logged is handed over and told to MLflow later.

    Attributes:
        id: our key of the run, 32 hex digits, known at once; MLflow's own id is
            known after delivery, from `Tracker.mlflow_run_id`.
        name: what people see.
    """

    def __init__(self, tracker: "Tracker", key: str, name: str) -> None:
        self.id, self.name = key, name
        self._tracker = tracker

    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters once; nested mappings become dotted names."""
        self._log(params=flatten(values))

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags; later values replace earlier ones."""
        self._log(tags=_tag_texts(values))

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log numbers under `group/name`; what is not finite is left out.

        Args:
            values: name to number; `recall@10` is written `recall_at_10`.
            step: position on the axis that all curves share, for example
                optimiser steps.
        """
        finite = {
            _metric_key(name): float(value)
            for name, value in values.items()
            if math.isfinite(value)
        }
        if finite:
            self._log(metrics=finite, step=int(step))

    def artifact(self, path: Path | str, under: str | None = None) -> None:
        """Keep a file or a directory, which must stay until it is delivered."""
        record = {"path": str(Path(path).resolve()), "under": under}
        self._tracker.write({"op": "artifact", "run": self.id, **record})

    def dataset(
        self, name: str, *, source: str, digest: str, context: str = "training"
    ) -> None:
        """Link the data that was read; tables show 12 characters of `digest`."""
        record = {"name": name, "source": source, "digest": digest, "context": context}
        self._tracker.write({"op": "dataset", "run": self.id, **record})

    def view(
        self, key: str, view: View, note: str, *, of_experiment: bool = False
    ) -> None:
        """Keep a view of the experiment's runs, and say in a note where it is.

        Args:
            key: names the view within the run; within the experiment if it is its.
            view: as of `tracking.views`, where `RUN` stands for this run.
            note: Markdown, with `LINK` for the view's address; it becomes the
                description of this run.
            of_experiment: the description, and the view, of the experiment instead.
        """
        record = {"key": key, "view": view, "note": note, "whole": of_experiment}
        self._tracker.write({"op": "view", "run": self.id, **record})

    @contextmanager
    def child(
        self, name: str, tags: Mapping[str, object] = {}, key: str | None = None
    ) -> Iterator["Run"]:
        """Open a run below this one; as `Tracker.run`."""
        with self._tracker.run(name, self, tags, key) as run:
            yield run

    def keep_children(self, stage: str, keys: Iterable[str]) -> None:
        """Delete the children of one stage whose `key` is not among some.

        For work that was broken off and could not be gone on with: its run would stay
        beside that of the work that took its place.
        """
        record = {"stage": stage, "kept": [_run_id(key) for key in keys]}
        self._tracker.write({"op": "keep_children", "run": self.id, **record})

    def finish(self, status: Status = "FINISHED") -> None:
        """End the run; only for runs opened by `Tracker.start_run`."""
        record = {"status": status, "ts": now_ms()}
        self._tracker.write({"op": "end", "run": self.id, **record})

    def _log(self, **parts: object) -> None:
        record = {"op": "log", "run": self.id, "ts": now_ms(), "step": 0, **parts}
        self._tracker.write(record)


class Tracker:
    """The runs of one experiment. Made by `Tracker.open`, or a `NullTracker`."""

    def __init__(self, uri: str, delivery: Delivery | None) -> None:
        self.uri = uri
        self._delivery = delivery
        self._common = code_tags() if delivery else {}

    @classmethod
    def open(cls, uri: str | None, experiment: str, spool: Path) -> "Tracker":
        """Open an experiment; returns at once, whether or not MLflow answers.

        Args:
            uri: `http://...`, `sqlite:////absolute/path.db`, or None for
                `MLFLOW_TRACKING_URI` and else `mlruns/mlflow.db` here.
            experiment: one per dataset.
            spool: directory where records wait. What an earlier process with the
                same directory could not deliver is delivered first.
        """
        uri = uri or default_uri()
        return cls(uri, Delivery(uri, experiment, spool))

    @contextmanager
    def run(
        self,
        name: str,
        parent: Run | None = None,
        tags: Mapping[str, object] = {},
        key: str | None = None,
    ) -> Iterator[Run]:
        """Open a run that ends with the block: FAILED if it raises.

        Args:
            name: what people see; two or three telling parameters belong in it.
            parent: the run above.
            tags: at least `stage`.
            key: text that is the same when the same work is resumed, so that it
                continues its run; by default the run is new.
        """
        run = self.start_run(name, parent, tags, key)
        try:
            yield run
        except Exception:
            run.finish("FAILED")
            raise
        except BaseException:
            run.finish("KILLED")
            raise
        run.finish()

    def start_run(
        self,
        name: str,
        parent: Run | None = None,
        tags: Mapping[str, object] = {},
        key: str | None = None,
    ) -> Run:
        """Open a run that `Run.finish` ends; as `run`."""
        run_key = _run_id(key) if key else uuid.uuid4().hex
        start = {
            "name": name,
            "parent": parent.id if parent else None,
            "tags": _tag_texts({**self._common, **tags}),
            "ts": now_ms(),
        }
        self.write({"op": "start", "run": run_key, **start})
        return Run(self, run_key, name)

    def flush(self, timeout_s: float = 15.0) -> bool:
        """Wait until everything has arrived; False if that takes too long."""
        return self._delivery is None or self._delivery.flush(timeout_s)

    def mlflow_run_id(self, run: Run, timeout_s: float = 15.0) -> str | None:
        """Return MLflow's id of a run, None if it has not arrived in time."""
        if self._delivery is None or not self.flush(timeout_s):
            return None
        store = self._delivery.store()
        return store.run_id(run.id) if store else None

    def experiment_link(self, ui: str, timeout_s: float = 15.0) -> str:
        """Return the address of the experiment's runs in a user interface.

        Args:
            ui: its base address, like `http://127.0.0.1:5000`.
            timeout_s: how long to wait for the experiment to exist; past it the
                link leads to the list of experiments.
        """
        store = None
        if self._delivery is not None and self.flush(timeout_s):
            store = self._delivery.store()
        if store is None:
            return f"{ui}/#/experiments?{ML_MODE}"
        return f"{ui}/#/experiments/{store.experiment_id}/runs?{ML_MODE}"

    def close(self, timeout_s: float = 15.0) -> bool:
        """Deliver and end; False when records have to wait for the next process."""
        if self._delivery is None:
            return True
        delivered = self._delivery.close(timeout_s)
        if not delivered:
            _log.warning("MLflow at %s has not received everything yet", self.uri)
        return delivered

    def write(self, record: Record) -> None:
        """Hand a record over; a full disk is reported, not raised."""
        if self._delivery is None:
            return
        try:
            self._delivery.append(record)
        except OSError as error:
            _log.warning("tracking record lost: %s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class NullTracker(Tracker):
    """Keeps nothing: for tests, and for work that nobody wants to see.

    Args:
        write: receives every record, for tests that look at them.
    """

    def __init__(self, write: Callable[[Record], None] | None = None) -> None:
        super().__init__("", None)
        self._write = write

    def write(self, record: Record) -> None:
        """Pass the record on, or drop it."""
        if self._write:
            self._write(record)


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Return dotted names and texts of a nested mapping.

    Numbers are rounded to four significant digits, so that tables stay readable.

    >>> flatten({"optimizer": {"lr": 0.00147029}, "towers": [64, 32], "seed": 7})
    {'optimizer.lr': '0.00147', 'towers': '[64, 32]', 'seed': '7'}
    """
    flat: dict[str, str] = {}
    for name, value in values.items():
        key = _metric_key(f"{prefix}{name}")
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{key}.")
        elif isinstance(value, float):
            flat[key] = f"{value:.4g}"
        else:
            flat[key] = _text(value)[:_MAX_PARAM]
    return flat


def _run_id(key: str) -> str:
    """Return our name of the run that a caller's key stands for."""
    return hashlib.md5(key.encode()).hexdigest()


def _text(value: object) -> str:
    """Return a value as people and queries expect it."""
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, default=str)
    return str(value)


def _tag_texts(values: Mapping[str, object]) -> dict[str, str]:
    """Return tags as texts within MLflow's limits."""
    return {name: _text(value)[:_MAX_TAG] for name, value in values.items()}


def _metric_key(name: str) -> str:
    """Return a name that MLflow accepts."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))[:_MAX_KEY]
