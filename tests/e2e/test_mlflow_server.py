"""The user interface of MLflow over a database that is written to meanwhile."""

import urllib.request

import pytest

from cacs_ray.tracking.client import Tracker
from cacs_ray.tracking.server import mlflow_server
from cacs_ray.tracking.store import open_client


def test_runs_written_to_the_database_and_over_http_are_seen_by_both(
    mlflow_uri, tmp_path
):
    with mlflow_server(mlflow_uri, tmp_path / "mlflow.log") as url:
        for name, uri in (("direct", mlflow_uri), ("over http", url)):
            with (
                Tracker.open(uri, "demo", tmp_path / "spool") as tracker,
                tracker.run(name) as run,
            ):
                run.metrics({"val/auc": 0.75}, step=1)
                assert tracker.mlflow_run_id(run, timeout_s=60)
                assert url in tracker.experiment_link(url)

        for uri in (mlflow_uri, url):
            client = open_client(uri)
            experiment = client.get_experiment_by_name("demo")
            runs = client.search_runs([experiment.experiment_id])
            assert {run.info.run_name for run in runs} == {"direct", "over http"}
            assert {run.info.status for run in runs} == {"FINISHED"}

    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{url}/health", timeout=2)
