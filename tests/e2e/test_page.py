"""The pages in a real browser: what a person does, and what they see."""

import asyncio
import threading
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from cacs_ray.local_server import LOOPBACK, free_port
from serve.http import create_http
from tests.e2e.browser import find_chromium, open_browser
from tests.unit.serve.conftest import make_service, release  # noqa: F401 - fixtures

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]
TEXTS = "[...document.querySelectorAll('{}')].map((one) => one.innerText)"


@contextmanager
def served(app, prefix=""):
    """Serve an application over HTTP in a thread; yields its address."""
    if prefix:
        app = Starlette(routes=[Mount(prefix, app)])
    config = uvicorn.Config(app, LOOPBACK, free_port(), log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{config.port}{prefix}/"
    finally:
        server.should_exit = True
        thread.join(10)


def visit(app, tmp_path, steps, prefix=""):
    """Do steps in a browser; it must ask nobody else and complain of nothing."""

    async def go(address):
        async with open_browser(find_chromium(), tmp_path / "profile") as browser:
            await browser.call("Page.navigate", url=address)
            await steps(browser)
            return browser.complaints, browser.requested

    with served(app, prefix) as address:
        complaints, requested = asyncio.run(go(address))
    assert complaints == []
    assert requested
    assert [url for url in requested if not url.startswith(address)] == []


def test_a_person_sees_why_compares_and_looks_at_the_evidence(
    make_service,  # noqa: F811
    tmp_path,
):
    async def steps(browser):
        await browser.wait("document.querySelectorAll('.ad').length === 2")
        # The first example was decided at once; hats win by CTR and bid.
        titles = await browser.run(TEXTS.format(".ad h3"))
        assert titles == ["Ad hat", "Ad shoe"]
        chosen = await browser.run(TEXTS.format("li.is-chosen .name"))
        assert [name.split()[0] for name in chosen] == ["wool", "blue"]
        assert "slot 0" in (await browser.run(TEXTS.format(".ad .tag.slot")))[0]
        scores = await browser.run(TEXTS.format(".ad:has([href*=hat]) .score"))
        assert scores == ["2.000", "1.000"]
        # Pictures are loaded when they come into view: let all of them.
        await browser.resize(1280, 4000)
        shown = "[...document.images].filter((one) => one.naturalWidth > 0).length"
        await browser.wait(f"{shown} === document.images.length")
        times = await browser.run(TEXTS.format(".times .number"))
        assert times
        assert all(one.endswith(" ms") for one in times)
        await compare(browser)
        await type_a_request(browser)
        await look_at_evidence(browser)

    async def compare(browser):
        await browser.run(
            """(() => {
            const order = document.getElementById("order-b");
            order.value = "popular";
            order.dispatchEvent(new Event("change"));
            })()"""
        )
        await browser.wait("document.querySelectorAll('.summary').length === 2")
        # By CTR in training: straw and red instead of wool and blue.
        chosen = await browser.run(TEXTS.format("li.is-chosen .name"))
        assert [name.split()[0] for name in chosen] == ["wool", "straw", "blue", "red"]
        (difference,) = await browser.run(TEXTS.format(".answer > .notice"))
        assert "2 of 2 ads" in difference

    async def type_a_request(browser):
        await browser.run(
            """(() => {
            document.getElementById("body").open = true;
            const json = document.getElementById("json");
            const type = (text) => {
              json.value = text; json.dispatchEvent(new Event("input"));
            };
            type("{oops");
            window.wasRefused = document.getElementById("decide").disabled;
            type(JSON.stringify({request_id: "mine", candidates: [
              {ad_id: "hat", bid_micros: 5},
              {ad_id: "<b>nobody</b>", bid_micros: 5}]}));
            document.getElementById("form").requestSubmit();
            })()"""
        )
        assert await browser.run("window.wasRefused")
        await browser.wait("document.querySelectorAll('.ad').length === 1")
        notices = await browser.run(TEXTS.format(".answer > .notice"))
        assert any("<b>nobody</b> the release does not know" in one for one in notices)

    async def look_at_evidence(browser):
        await browser.run("document.querySelector('.ad h3 a').click()")
        await browser.wait("document.querySelectorAll('.table tbody tr').length === 2")
        states = await browser.run(TEXTS.format(".table .state"))
        assert states == ["learning", "learning"]
        (rule,) = await browser.run(TEXTS.format("#rule"))
        assert "fatigued" in rule
        assert await browser.run("document.title.startsWith('Evidence')")

    visit(create_http(make_service().gateway), tmp_path, steps)


def test_a_narrow_dark_screen_shows_all_of_it_under_a_prefix(
    make_service,  # noqa: F811
    tmp_path,
):
    async def steps(browser):
        await browser.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark"}],
        )
        await browser.resize(400, 900)
        await browser.wait("document.querySelectorAll('.ad').length === 2")
        assert await browser.run("document.documentElement.scrollWidth") <= 400
        ground = "getComputedStyle(document.body).backgroundColor"
        assert await browser.run(ground) == "rgb(17, 19, 26)"
        await browser.run("document.querySelector('nav a:nth-of-type(2)').click()")
        await browser.wait("document.querySelectorAll('.table tbody tr').length === 2")
        assert await browser.run("document.documentElement.scrollWidth") <= 400

    visit(create_http(make_service().gateway), tmp_path, steps, prefix="/ads")


def test_trouble_is_told_in_words(make_service, tmp_path):  # noqa: F811
    service = make_service()
    service.selector.error = RuntimeError("boom")

    async def steps(browser):
        await browser.wait("document.querySelectorAll('.ad').length === 2")
        (rung,) = await browser.run(TEXTS.format(".rung"))
        assert rung.startswith("Lower rung: the selector failed: creatives were chosen")
        assert rung.endswith("(popular_creative).")

    visit(create_http(service.gateway), tmp_path, steps)
