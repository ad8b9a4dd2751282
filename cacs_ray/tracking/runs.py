"""Reading runs back from MLflow: parameters, metrics, cost and kept reports."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cacs_ray.data.files import read_json
from cacs_ray.errors import InputError
from cacs_ray.tracking.store import (
    MOST_RUNS,
    PARENT_TAG,
    mlflow_module,
    open_client,
)

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

_ID_LENGTH = 32


@dataclass(frozen=True, slots=True)
class KeptRun:
    """A run as MLflow holds it."""

    id: str
    name: str
    stage: str
    """Its tag: cycle, sweep, study or what the stage of a cycle is called."""
    status: str
    seconds: float | None
    """Wall clock; None while it runs."""
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    """Last value of each."""
    children: tuple["KeptRun", ...] = ()


class RunReader:
    """Reads runs of one store.

    Args:
        uri: as for `Tracker.open`.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: MlflowClient = open_client(uri)

    def find(self, name_or_id: str) -> KeptRun:
        """Return one run with its children.

        Args:
            name_or_id: MLflow's id, or a run's whole name in any experiment.

        Raises:
            InputError: there is no such run, or several have this name.
        """
        found = self._by_id(name_or_id) or self._by_name(name_or_id)
        children = self._search(
            [found.info.experiment_id],
            f"tags.`{PARENT_TAG}` = '{found.info.run_id}'",
        )
        return _kept(found, tuple(_kept(child) for child in reversed(children)))

    def artifact(self, run: KeptRun, name: str) -> Any | None:  # noqa: ANN401
        """Return a JSON file among a run's artifacts, None if it has none."""
        if name not in [file.path for file in self._client.list_artifacts(run.id)]:
            return None
        with tempfile.TemporaryDirectory() as directory:
            return read_json(
                Path(self._client.download_artifacts(run.id, name, directory))
            )

    def _by_id(self, run_id: str) -> "MlflowRun | None":
        if len(run_id) != _ID_LENGTH or not run_id.isalnum():
            return None
        exceptions = mlflow_module("exceptions")
        try:
            return self._client.get_run(run_id)
        except exceptions.MlflowException:
            return None

    def _by_name(self, name: str) -> "MlflowRun":
        quoted = name.replace("'", "''")
        experiments = [e.experiment_id for e in self._client.search_experiments()]
        found = self._search(experiments, f"attributes.run_name = '{quoted}'")
        if len(found) == 1:
            return found[0]
        several = ", ".join(run.info.run_id for run in found[:5])
        raise InputError(
            f"{len(found)} runs are called {name!r}: {several}; name one by its id"
            if found
            else f"no run has the id or name {name!r}",
            source=self._uri,
            rule="known_run",
        )

    def _search(self, experiments: list[str], wanted: str) -> list["MlflowRun"]:
        runs: list[MlflowRun] = self._client.search_runs(
            experiments, wanted, max_results=MOST_RUNS
        )
        return runs


def _kept(run: "MlflowRun", children: tuple[KeptRun, ...] = ()) -> KeptRun:
    info, data = run.info, run.data
    seconds = (info.end_time - info.start_time) / 1000 if info.end_time else None
    return KeptRun(
        id=info.run_id,
        name=info.run_name,
        stage=data.tags.get("stage", ""),
        status=info.status,
        seconds=seconds,
        params=dict(data.params),
        metrics=dict(data.metrics),
        children=children,
    )
