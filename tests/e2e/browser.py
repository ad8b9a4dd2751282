"""A headless Chromium, driven over its DevTools protocol.

Only what the tests and the pictures of the pages need: open, run JavaScript, wait,
click, and tell what the page looks like, complained of and asked for.
"""

import asyncio
import base64
import itertools
import json
import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_START_TIMEOUT_S = 20.0
_FLAGS = (
    "--headless=new",
    # Tests run as root in containers, where the sandbox cannot start.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--remote-debugging-port=0",
)


def find_chromium():
    """Return the program of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class LeftError(RuntimeError):
    """A call was refused, such as one in a page that was left meanwhile."""


class Browser:
    """One page of a browser."""

    def __init__(self, socket):
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers = {}
        self._session = None
        self._reading = asyncio.create_task(self._read())
        self.complaints = []
        """Errors on the console, uncaught exceptions, refused resources."""
        self.requested = []
        """URLs that the page asked for."""

    async def open(self):
        """Make a page to work in."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", **target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")

    async def call(self, method, **params):
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(message)
        return await asyncio.wait_for(answer, 10)

    async def run(self, script):
        """Return the value of a JavaScript expression in the page."""
        done = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    async def wait(self, script, *, timeout_s=8.0):
        """Wait until an expression is true."""
        waiting = f"""new Promise((done, fail) => {{
            const late = performance.now() + {1e3 * timeout_s};
            const look = () => {{
                let value;
                try {{ value = {script}; }} catch {{ value = false; }}
                if (value) done(true);
                else if (performance.now() > late) done(false);
                else setTimeout(look, 20);
            }};
            look();
        }})"""
        for is_last in (False, True):
            try:
                assert await self.run(waiting), f"in vain: {script}"
            except LeftError:
                # A link was followed while we waited: wait in the new page.
                if is_last:
                    raise
            else:
                return

    async def click(self, element, *, timeout_s=8.0):
        """Click with the mouse on the middle of an element, a JavaScript expression."""
        await self.wait(f"({element}).isConnected", timeout_s=timeout_s)
        x, y = await self.run(
            f"""(() => {{
            const one = {element};
            one.scrollIntoView({{block: "nearest"}});
            const box = one.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
            }})()"""
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    async def picture(self):
        """Return the window as PNG."""
        taken = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(taken["data"])

    async def resize(self, width, height):
        """Give the page a window of so many pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1},
            mobile=False,
        )

    async def _read(self):
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                answer = self._answers.pop(told["id"])
                if "error" in told:
                    answer.set_exception(LeftError(told["error"]["message"]))
                elif not answer.done():
                    answer.set_result(told["result"])
            else:
                self._note(told["method"], told["params"])

    def _note(self, event, params):
        if event == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        if event == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"])
        if event == "Runtime.consoleAPICalled" and params["type"] in (
            "error",
            "warning",
            "assert",
        ):
            self.complaints.append(params["args"])
        if event == "Log.entryAdded" and params["entry"]["level"] != "verbose":
            self.complaints.append(params["entry"])

    async def close(self):
        """Leave."""
        await self.call("Page.close")
        self._reading.cancel()


@asynccontextmanager
async def open_browser(program: str, profile: Path):
    """Start a browser of its own and yield one page of it."""
    process = await asyncio.create_subprocess_exec(
        program,
        *_FLAGS,
        f"--user-data-dir={profile}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        address = await asyncio.wait_for(_address(process.stderr), _START_TIMEOUT_S)
        drained = asyncio.create_task(process.stderr.read())
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, max_msg_size=0) as socket,
        ):
            browser = Browser(socket)
            await browser.open()
            yield browser
            await browser.close()
        drained.cancel()
    finally:
        process.terminate()
        await process.wait()


async def _address(stream):
    """Read where the browser listens from what it says when it starts."""
    while line := (await stream.readline()).decode():
        if line.startswith("DevTools listening on "):
            return line.removeprefix("DevTools listening on ").strip()
    raise RuntimeError("the browser ended before it listened")
