"""The user interface of MLflow over a database that is written to meanwhile."""

import urllib.request

import httpx
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


def test_it_answers_under_its_own_names_only_and_runs_no_jobs(mlflow_uri, tmp_path):
    with mlflow_server(mlflow_uri, tmp_path / "mlflow.log") as url:
        port = httpx.URL(url).port

        def ask(path, body, **headers):
            return httpx.post(f"{url}{path}", json=body, headers=headers, timeout=30)

        def status(**headers):
            path = "/api/2.0/mlflow/experiments/search"
            return ask(path, {"max_results": 1}, **headers).status_code

        for own in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost:6000"):
            assert status(host=own) == 200, own
        # MLflow's own list takes the last one for a private address.
        for foreign in ("evil.example", f"evil.example:{port}", "10.evil.example"):
            assert status(host=foreign) == 403, foreign
        assert status(origin="http://evil.example") == 403

        job = {"job_name": "invoke_scorer", "params": {}}
        refused = ask("/ajax-api/3.0/jobs/", job)
        assert refused.is_error
        assert "not enabled" in refused.json()["detail"]
