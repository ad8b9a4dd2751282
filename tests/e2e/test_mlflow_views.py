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

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]
SEES = "document.body.innerText.includes({!r})"
AXES = "[...document.querySelectorAll('.parcoords text')].map((one) => one.textContent)"


def keep_sweep(uri, spool):
    """Keep a sweep of two trials with both views; return their addresses."""
    table = table_view(["test/auc"])
    trials = trials_view(["validation/loss"], ["dim", "rate"])
    with (
        Tracker.open(uri, "demo", spool) as tracker,
        tracker.run("the sweep", tags={"stage": "sweep"}) as run,
    ):
        run.metrics({"test/auc": 0.8125})
        for number, loss in enumerate([0.5, 0.25]):
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
            await browser.call("Page.navigate", url=f"{url}/{table}")
            await see(browser, "the sweep", "test/auc", "0.8125")
            await browser.call("Page.navigate", url="about:blank")
            await browser.call("Page.navigate", url=f"{url}/{trials}")
            await see(browser, "2 matching runs", "Trials", "Curves")
            # Best first, and the sweep itself is no trial of its own.
            text = await browser.run("document.body.innerText")
            assert text.index("trial-1") < text.index("trial-0")
            assert "the sweep" not in text
            for axis in ("dim", "rate", "validation/loss"):
                await browser.wait(f"{AXES}.includes('{axis}')")

    with mlflow_server(mlflow_uri, tmp_path / "mlflow.log") as url:
        asyncio.run(look(url))


async def see(browser, *texts):
    """Wait until the page shows all of some texts; its script is megabytes."""
    for text in texts:
        for is_last in (False, False, True):
            try:
                await browser.wait(SEES.format(text))
                break
            except AssertionError:
                if is_last:
                    raise
