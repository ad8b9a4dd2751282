"""MLflow's page understands the views that are kept for it, in a real browser.

Their format is not documented: what a later MLflow makes of it shows only here.
"""

import asyncio

import pytest

from cacs_ray.tracking.client import Tracker
from cacs_ray.tracking.server import mlflow_server
from cacs_ray.tracking.store import open_client
from cacs_ray.tracking.views import LINK, table_view, trials_view, view_link
from tests.e2e.browser import find_chromium, open_browser
from tests.e2e.mlflow_page import AXES, compare, open_view, see

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]
COMPARED = "document.querySelector('.CompareRunView').innerText"
LINES_DRAWN = """[...document.querySelectorAll('.parcoords canvas, canvas.gl-canvas')]
    .some((one) => one.clientWidth > 300 && one.clientHeight > 200)"""


def keep_sweep(uri, spool):
    """Keep a sweep of three trials with both views; return their addresses."""
    table = table_view(["test/auc"])
    trials = trials_view(["validation/loss"], ["dim", "rate"])
    with (
        Tracker.open(uri, "demo", spool) as tracker,
        tracker.run("the sweep", tags={"stage": "sweep"}) as run,
    ):
        run.metrics({"test/auc": 0.8125})
        for number, loss in enumerate([0.5, 0.25, 0.125]):
            with run.child(f"trial-{number}", tags={"stage": "trial"}) as child:
                child.params({"dim": 8 + number, "rate": 0.1 + number})
                child.metrics({"validation/loss": loss}, step=1)
                child.metrics({"validation/loss": loss / 2}, step=2)
        run.view("runs", table, f"[table]({LINK})", of_experiment=True)
        run.view("trials", trials, f"[trials]({LINK})")
        assert tracker.flush(60)
        run_id = tracker.mlflow_run_id(run)
    experiment = open_client(uri).get_experiment_by_name("demo").experiment_id
    return (
        view_link(experiment, "runs", table),
        view_link(experiment, f"trials-{run_id[:8]}", trials),
    )


def test_both_views_open_as_they_were_kept(mlflow_uri, tmp_path):
    table, trials = keep_sweep(mlflow_uri, tmp_path / "spool")

    async def look(url):
        async with open_browser(find_chromium(), tmp_path / "profile") as browser:
            await browser.resize(1600, 1200)
            await open_view(browser, f"{url}/{table}")
            await see(browser, "the sweep", "test/auc", "0.8125")
            await open_view(browser, f"{url}/{trials}")
            await see(browser, "3 matching runs", "Trials", "Curves")
            # Best first, and the sweep itself is no trial of its own.
            text = await browser.run("document.body.innerText")
            assert text.index("trial-2") < text.index("trial-1") < text.index("trial-0")
            assert "the sweep" not in text
            for axis in ("dim", "rate", "validation/loss"):
                await browser.wait(f"{AXES}.includes('{axis}')")

    with mlflow_server(mlflow_uri, tmp_path / "mlflow.log") as url:
        asyncio.run(look(url))


def test_trials_are_compared_under_the_names_of_what_was_set_and_measured(
    mlflow_uri, tmp_path
):
    _, trials = keep_sweep(mlflow_uri, tmp_path / "spool")

    async def look(url):
        async with open_browser(find_chromium(), tmp_path / "profile") as browser:
            await browser.resize(1600, 1200)
            await open_view(browser, f"{url}/{trials}")
            await see(browser, "3 matching runs")
            await compare(browser, "trial-0", "trial-1", "trial-2")
            for axis in ("dim", "rate", "validation/loss"):
                await browser.wait(f"{AXES}.includes('{axis}')")
            assert await browser.run(LINES_DRAWN)
            text = " ".join((await browser.run(COMPARED)).split())
            assert "Run Name: trial-0 trial-1 trial-2" in text
            assert "dim 8 9 10 rate 0.1 1.1 2.1" in text
            assert "validation/loss 0.25 0.125 0.063" in text

    with mlflow_server(mlflow_uri, tmp_path / "mlflow.log") as url:
        asyncio.run(look(url))
