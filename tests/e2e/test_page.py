"""The pages in a real browser: what a person does, and what they see."""

import asyncio
import json
import shutil
import threading
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from cacs_ray.local_server import LOOPBACK, free_port
from cacs_ray.promises import siblings
from serve.app import HttpGateway
from serve.arguments import AppArgs
from serve.http import create_http
from serve.wiring import wire
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
        said = await browser.run(TEXTS.format(".times dt .quiet"))
        assert all(one.strip() for one in said)
        assert len(said) == len(times)
        await compare(browser)
        await type_a_request(browser)
        await look_at_evidence(browser)

    async def compare(browser):
        await choose(browser, "order-b", "popular")
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


@pytest.fixture
def two_releases(walk, tmp_path, kept_loggers, monkeypatch):
    """The whole application over a bundle, beside one that prefers the opposite."""
    # Its scores have the other sign, so that the last creative becomes the first.
    monkeypatch.setattr(siblings, "_SCALE", -1.0)
    releases = tmp_path / "releases"
    shutil.copytree(walk / "run" / "bundle", releases / "old")
    siblings.write_sibling(releases / "old", releases / "next")
    (tmp_path / "token").write_text("secret\n")
    args = AppArgs(
        bundle=str(releases / "old"),
        releases=str(releases),
        admin_token_file=str(tmp_path / "token"),
        state=str(tmp_path / "state"),
        budget_ms=10_000,
        fused=True,
    )
    gateway = HttpGateway(wire(args), None)
    yield gateway.__serve_build_asgi_app__()
    gateway.close()


def test_two_releases_side_by_side_choose_what_each_decides_when_it_is_live(
    two_releases, tmp_path
):
    async def steps(browser):
        taken = await send(browser, "admin/releases?wait_s=60", {"bundle": "next"})
        back = await send(browser, "admin/rollback")
        old, new = back["live"], taken["live"]
        await browser.call("Page.reload")
        await browser.wait(
            f"document.getElementById('live').innerText.includes('{old}')"
        )
        await choose(browser, "release-b", new)
        await choose(browser, "order-b", "")
        told = TEXTS.format(".summary code")
        await browser.wait(f"{told}.join() === '{old},{new}'")
        # Ads that are not shown are drawn when they are asked for.
        await browser.run(
            "document.querySelectorAll('.rest').forEach((one) => { one.open = true; })"
        )
        seen = [await browser.run(CHOICES.format(side)) for side in (1, 2)]

        asked = json.loads(await browser.run("document.getElementById('json').value"))
        assert len(seen[0]) == len(asked["candidates"])
        for live, choices in zip((old, new), seen, strict=True):
            decided = await send(browser, "v1/decide?explain=true", asked)
            assert decided["release"] == live
            assert not decided["is_fallback"]
            assert choices == {
                one["ad_id"]: one["creative_id"] for one in decided["decisions"]
            }
            # What was live before the roll-back is live again after another one.
            await send(browser, "admin/rollback")
        assert seen[0] != seen[1]

    visit(two_releases, tmp_path, steps)


CHOICES = """Object.fromEntries([...document.querySelectorAll('.ad')].map((ad) => [
    ad.querySelector('h3').innerText.replace('Ad ', ''),
    ad.querySelector('.ad-side:nth-child({}) .is-chosen .name')
      .textContent.split(' ')[0],
]))"""
"""Ad -> creative, in one of the columns; without a dataset its name is its id."""


async def choose(browser, field, value):
    """Pick a value in one of the page's lists."""
    await browser.run(
        f"""(() => {{
        const field = document.getElementById({field!r});
        field.value = {value!r};
        field.dispatchEvent(new Event("change"));
        }})()"""
    )


async def send(browser, path, body=None):
    """Ask the service for what an operator or a site would, from the page."""
    return await browser.run(
        f"""fetch({path!r}, {{
            method: "POST",
            headers: {{
              "content-type": "application/json", authorization: "Bearer secret"}},
            body: {json.dumps(json.dumps(body) if body else "")},
        }}).then((answer) => answer.json())"""
    )
