"""The MLflow side: the database made ready once, and records told to it.

MLflow is imported when a store is opened, not with this module: it is slow to
import and nothing that trains or serves needs it.
"""

import fcntl
import importlib
import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cacs_ray.tracking.spool import Record
from cacs_ray.tracking.views import LINK, RUN, VIEW_TAG, packed, view_link

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)

NOTE_TAG = "mlflow.note.content"
"""Tag that MLflow shows as a description, in Markdown."""

RUN_KEY_TAG = "cacs.run"
"""Tag with our own key of a run, by which a replay finds it again."""

PARENT_TAG = "mlflow.parentRunId"
"""Tag by which MLflow knows a run's parent."""

MOST_RUNS = 5000
"""As many as are looked for at once."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    # The tracker waits and tries again by itself, beside the work.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Switches of every process that uses MLflow: no calls home, no noise, no waiting."""

ABOUT = "One run a cycle or sweep; open it (+) for its stages or trials."
"""What the description of every experiment begins with, until somebody edits it."""

_DIGEST = 12
"""Characters of a dataset's digest: enough to tell data apart, few enough to read."""

_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")
"""Answers that the same request would get again."""


def default_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, or a database in `mlruns/` of this directory."""
    named = os.environ.get("MLFLOW_TRACKING_URI")
    return named or f"sqlite:///{Path.cwd() / 'mlruns' / 'mlflow.db'}"


def mlflow_module(name: str) -> ModuleType:
    """Return a module of MLflow, imported with its switches set beforehand."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    module = importlib.import_module(f"mlflow.{name}")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return module


def open_client(uri: str) -> "MlflowClient":
    """Return an `MlflowClient` for a server, or for a database made ready first.

    Args:
        uri: `http://...` or `sqlite:////absolute/path.db`; the database's tables
            are created by one process at a time, which MLflow does not see to.
    """
    mlflow_client = mlflow_module("tracking").MlflowClient
    if not uri.startswith("sqlite:///"):
        return mlflow_client(tracking_uri=uri, registry_uri=uri)
    database = Path(uri.removeprefix("sqlite:///")).resolve()
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = mlflow_client(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
        client.search_registered_models(max_results=1)
        # Readers and the writer no longer wait for each other; kept in the file.
        connection = sqlite3.connect(database)
        connection.execute("pragma journal_mode=wal")
        connection.close()
    return client


class MlflowStore:
    """Applies records to one experiment; every record may be applied twice.

    Args:
        uri: as for `open_client`.
        experiment: name of the experiment, created if missing.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.client = open_client(uri)
        self.experiment_id = experiment_id(self.client, uri, experiment)
        self._run_ids: dict[str, str] = {}

    def apply(self, records: Sequence[Record]) -> None:
        """Tell MLflow the records in order, neighbouring ones of a run together.

        What MLflow refuses for good is reported and left out.

        Raises:
            MlflowException: the store cannot be reached now.
            OSError: likewise.
        """
        exceptions = mlflow_module("exceptions")
        for group in _neighbours(records):
            try:
                self._apply_group(group)
            except exceptions.MlflowException as error:
                if error.error_code not in _REFUSALS:
                    raise
                _log.warning("MLflow refused %s: %s", group[0]["op"], error)

    def run_id(self, key: str) -> str | None:
        """Return MLflow's name of the run with our key, None if there is none."""
        if key not in self._run_ids:
            found = self.client.search_runs(
                [self.experiment_id], f"tags.`{RUN_KEY_TAG}` = '{key}'", max_results=1
            )
            if not found:
                return None
            self._run_ids[key] = found[0].info.run_id
        return self._run_ids[key]

    def _apply_group(self, group: Sequence[Record]) -> None:
        first = group[0]
        if first["op"] == "start":
            self._start(first)
            return
        run_id = self.run_id(first["run"])
        if run_id is None:
            _log.warning("no run with key %s: %s left out", first["run"], first["op"])
            return
        if first["op"] == "log":
            self._log_batch(run_id, group)
        else:
            self._apply_one(run_id, first)

    def _apply_one(self, run_id: str, record: Record) -> None:
        match record["op"]:
            case "artifact":
                self._artifact(run_id, record)
            case "dataset":
                self._dataset(run_id, record)
            case "view":
                self._view(run_id, record)
            case "keep_children":
                self._keep_children(run_id, record)
            case "end":
                self.client.set_terminated(run_id, record["status"], record["ts"])

    def _start(self, record: Record) -> None:
        """Create the run, or open the one that has this key already."""
        known = self.run_id(record["run"])
        if known is not None:
            self.client.update_run(known, status="RUNNING")
            return
        tags = {RUN_KEY_TAG: record["run"], **record["tags"]}
        parent = self.run_id(record["parent"]) if record["parent"] else None
        if parent is not None:
            tags[PARENT_TAG] = parent
        run = self.client.create_run(
            self.experiment_id,
            run_name=record["name"],
            start_time=record["ts"],
            tags=tags,
        )
        self._run_ids[record["run"]] = run.info.run_id

    def _log_batch(self, run_id: str, group: Sequence[Record]) -> None:
        """Send parameters, tags and metrics of many records in one request."""
        entities = mlflow_module("entities")
        metrics = [
            entities.Metric(name, value, record["ts"], record["step"])
            for record in group
            for name, value in record.get("metrics", {}).items()
        ]
        params = _merged(group, "params")
        tags = _merged(group, "tags")
        self.client.log_batch(
            run_id,
            metrics=metrics,
            params=[entities.Param(*item) for item in params.items()],
            tags=[entities.RunTag(*item) for item in tags.items()],
        )

    def _artifact(self, run_id: str, record: Record) -> None:
        """Copy a file or directory, if it is still there."""
        path = Path(record["path"])
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), record["under"])
        elif path.is_file():
            self.client.log_artifact(run_id, str(path), record["under"])
        else:
            _log.warning("artifact %s is gone, left out", path)

    def _dataset(self, run_id: str, record: Record) -> None:
        """Link the data a run has read, by digest."""
        entities = mlflow_module("entities")
        dataset = entities.Dataset(
            name=record["name"],
            digest=record["digest"][:_DIGEST],
            source_type="local",
            source=json.dumps({"uri": record["source"]}),
        )
        context = entities.InputTag("mlflow.data.context", record["context"])
        inputs = [entities.DatasetInput(dataset, [context])]
        self.client.log_inputs(run_id, inputs)

    def _keep_children(self, run_id: str, record: Record) -> None:
        """Delete the children of one stage that are not among those to be kept."""
        of_stage = (
            f"tags.`{PARENT_TAG}` = '{run_id}' and tags.stage = '{record['stage']}'"
        )
        children = self.client.search_runs(
            [self.experiment_id], of_stage, max_results=MOST_RUNS
        )
        for child in children:
            key = child.data.tags.get(RUN_KEY_TAG, "")
            if key not in record["kept"]:
                self.client.delete_run(child.info.run_id)
                self._run_ids.pop(key, None)

    def _view(self, run_id: str, record: Record) -> None:
        """Keep a view with the experiment, and its address in a description."""
        key, view = record["key"], record["view"]
        if not record["whole"]:
            key = f"{key}-{run_id[:8]}"
        text = json.dumps(view).replace(RUN, run_id)
        experiment = self.experiment_id
        self.client.set_experiment_tag(experiment, VIEW_TAG + key, packed(text))
        note = record["note"].replace(LINK, view_link(experiment, key, view))
        if not record["whole"]:
            self.client.set_tag(run_id, NOTE_TAG, note)
            return
        tags = self.client.get_experiment(experiment).tags
        # What somebody wrote there instead is theirs.
        if tags.get(NOTE_TAG, ABOUT).startswith(ABOUT):
            self.client.set_experiment_tag(experiment, NOTE_TAG, note)


def experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    """Return the experiment's id, creating it with an absolute place for files."""
    exceptions = mlflow_module("exceptions")
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if uri.startswith("sqlite:///"):
        home = Path(uri.removeprefix("sqlite:///")).resolve().parent
        slug = re.sub(r"[^\w.-]+", "-", name)
        location = (home / "artifacts" / slug).as_uri()
    tags = {
        "mlflow.experimentKind": "custom_model_development",
        NOTE_TAG: ABOUT,
    }
    try:
        return str(client.create_experiment(name, location, tags))
    except exceptions.MlflowException:
        # Another process was faster.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def _neighbours(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Yield the records in order, log records of one run in a row as one group."""
    group: list[Record] = []
    for record in records:
        joins = bool(group) and record["op"] == group[0]["op"] == "log"
        if group and not (joins and record["run"] == group[0]["run"]):
            yield group
            group = []
        group.append(record)
    if group:
        yield group


def _merged(group: Sequence[Record], part: str) -> Mapping[str, str]:
    """Return one mapping of all records; later values win."""
    merged: dict[str, str] = {}
    for record in group:
        merged.update(record.get(part, {}))
    return merged
