"""Take the pictures of docs/ again, from a demonstration that is up.

make demo       # leave it up, and in a second terminal:
python -m jobs.cycle --logs out/demo/market --out out/demo/wide --recipe small \\
    --set features.text_encoder=hashed-ngrams student.model.dim=32 student.temperature=2
python -m tune.student --logs out/demo/market --work out/demo/cycle \\
    --out out/demo/sweep-student --trials 6 --set features.text_encoder=hashed-ngrams
python -m tests.e2e.pictures --out docs
"""

import asyncio
import io
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import httpx
from PIL import Image

from cacs_ray.command import job_parser, run_job
from cacs_ray.errors import InputError
from cacs_ray.tracking.store import open_client
from cacs_ray.tracking.views import ML_MODE, table_view, trials_view, view_link
from tests.e2e.browser import find_chromium, open_browser
from tests.e2e.mlflow_page import AXES, MAIN, compare, open_view, see, show_differences

WIDTH = 1265
"""Pixels of a window of the service."""
WIDE = 1650
"""The same of MLflow, whose menu and assistant are cut off at both sides."""


@dataclass(frozen=True)
class Shown:
    """What of MLflow is shown."""

    experiment: str
    cycles: list
    """Runs of the two latest cycles, the latest one first."""
    sweep: object
    """Run of the latest sweep."""
    student: object
    """Run of that stage of the earlier cycle."""
    version: object
    """Registered version of the earlier cycle."""


def what_is_shown(url):
    """Find the latest sweep and, in its experiment, the two latest cycles."""
    client = open_client(url)

    def latest(experiments, text, number=1):
        found = client.search_runs(experiments, text, max_results=number)
        if len(found) < number:
            raise InputError(f"fewer than {number} runs with {text}", source=url)
        return found

    experiments = [one.experiment_id for one in client.search_experiments()]
    (sweep,) = latest(experiments, "tags.stage = 'sweep'")
    here = [sweep.info.experiment_id]
    cycles = latest(here, "tags.stage = 'cycle'", 2)
    earlier = cycles[-1].info.run_id
    (student,) = latest(
        here, f"tags.mlflow.parentRunId = '{earlier}' and tags.stage = 'student'"
    )
    version = client.search_model_versions(f"run_id = '{earlier}'")[0]
    return Shown(here[0], cycles, sweep, student, version)


async def picture_runs(browser, url, shown):
    table = table_view([])
    await browser.resize(WIDE + 500, 460)
    await open_view(browser, f"{url}/{view_link(shown.experiment, 'runs', table)}")
    await see(browser, shown.sweep.info.run_name, "test/gain_cacs")


async def picture_sweep(browser, url, shown):
    key = f"trials-{shown.sweep.info.run_id[:8]}"
    view = trials_view([""], [])
    await browser.resize(WIDE, 900)
    await open_view(browser, f"{url}/{view_link(shown.experiment, key, view)}")
    await see(browser, "Trials", "Curves")
    await browser.wait(f"{AXES}.includes('temperature')")


async def picture_compare(browser, url, shown):
    await picture_runs(browser, url, shown)
    await compare(browser, *(run.info.run_name for run in shown.cycles))
    await browser.resize(WIDE, 1260)
    await show_differences(browser)


async def picture_metrics(browser, url, shown):
    run = shown.student.info.run_id
    path = f"#/experiments/{shown.experiment}/runs/{run}/model-metrics?{ML_MODE}"
    await browser.resize(WIDE, 900)
    await open_view(browser, f"{url}/{path}")
    await see(browser, "train", "teacher_agreement")


async def picture_version(browser, url, shown):
    path = f"#/models/{shown.version.name}/versions/{shown.version.version}?{ML_MODE}"
    await browser.resize(WIDE, 1500)
    await open_view(browser, f"{url}/{path}")
    await see(browser, "Gate: ", "How it was made")


async def picture_decisions(browser, url):
    await browser.resize(WIDTH, 1270)
    await open_view(browser, url)
    await browser.wait("document.querySelectorAll('.ad').length > 0")
    await browser.click(
        "[...document.querySelectorAll('.example')]"
        ".find((one) => one.innerText.includes('Well-known'))"
    )
    await browser.run(
        """(() => {
        const order = document.getElementById("order-b");
        order.value = "popular";
        order.dispatchEvent(new Event("change"));
        })()"""
    )
    await browser.wait("document.querySelectorAll('.summary').length === 2")


async def picture_evidence(browser, url):
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    await browser.call("Emulation.setEmulatedMedia", features=[dark])
    await browser.resize(WIDTH, 1070)
    await open_view(browser, f"{url}/evidence?ad={telling_ad(url)}")
    await browser.wait("document.querySelectorAll('.table tbody tr').length > 1")


def telling_ad(url):
    """Return the well-known ad whose creatives are in the most different states."""

    def states(ad_id):
        answer = httpx.get(f"{url}/page/evidence", params={"ad_id": ad_id})
        creatives = answer.json()["tables"][0]["creatives"]
        return len({one["state"] for one in creatives}), -len(creatives)

    found = httpx.get(f"{url}/page/search").json()["ad_ids"]
    return max(found, key=states)


MLFLOW = {
    "mlflow_runs": picture_runs,
    "mlflow_sweep": picture_sweep,
    "mlflow_compare": picture_compare,
    "mlflow_metrics": picture_metrics,
    "mlflow_version": picture_version,
}
PAGE = {"page_decisions": picture_decisions, "page_evidence": picture_evidence}


async def take_all(args, shown, out, profile):
    """Take every picture; of MLflow without its menu at the left."""
    async with open_browser(find_chromium(), profile) as browser:
        for name, prepare in MLFLOW.items():
            await prepare(browser, args.mlflow, shown)
            await take(browser, out / f"{name}.png", MAIN)
        for name, prepare in PAGE.items():
            await prepare(browser, args.service)
            await take(browser, out / f"{name}.png")


async def take(browser, file, part="document.body"):
    """Write a part of the window as soon as nothing moves in it any more."""
    seen = None
    while seen != (seen := await browser.picture()):
        await asyncio.sleep(1)
    left, right = await browser.run(
        f"(({{left, right}}) => [left, right])({part}.getBoundingClientRect())"
    )
    with Image.open(io.BytesIO(seen)) as window:
        kept = window.convert("RGB").crop((int(left), 0, int(right), window.height))
    # 256 colours are enough for a page, and the file is a third of the size.
    kept.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def pictures(args):
    """Take the pictures that the options describe."""
    if find_chromium() is None:
        raise InputError("no Chromium on this machine", rule="no_browser")
    shown = what_is_shown(args.mlflow)
    with tempfile.TemporaryDirectory() as profile:
        asyncio.run(take_all(args, shown, Path(args.out), Path(profile)))
    return {"out": args.out, "pictures": [*MLFLOW, *PAGE]}


def main(argv=None):
    """Parse, take the pictures, print which ones as one line of JSON."""
    parser = job_parser(__doc__, "tests.e2e.pictures")
    parser.add_argument("--out", required=True, metavar="DIR", help="as docs")
    parser.add_argument(
        "--mlflow", default="http://127.0.0.1:5000", help="address of MLflow"
    )
    parser.add_argument(
        "--service", default="http://127.0.0.1:8000", help="address of the service"
    )
    return run_job(parser, pictures, argv)


if __name__ == "__main__":
    sys.exit(main())
