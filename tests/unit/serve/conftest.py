"""A tiny market behind a gateway whose stages are stand-ins.

Two ads: hat (creatives wool, straw) and shoe (blue, red). In training straw had
the better CTR of the hats and red of the shoes.
"""

import asyncio
import threading
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import httpx
import numpy as np
import pyarrow as pa
import pytest
from scipy import special

from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.features.catalogue import Catalogue
from cacs_ray.features.spec import FieldSpec
from cacs_ray.manifest import read_manifest, write_manifest
from serve.admin import Admin
from serve.app import HttpGateway
from serve.arguments import AppArgs
from serve.arms import LIVE, Arm, Arms
from serve.board import Entry, ReleaseBoard
from serve.clicks import Clicks
from serve.decision_log import ClickLog
from serve.gateway import Gateway, Logs, Rules, ServedRelease
from serve.holder import OneRelease
from serve.http import create_http
from serve.ladder import NEWEST_SHARE
from serve.page import PageSource
from serve.release import Release
from serve.stage import StageAnswer, Stages
from serve.wiring import Wiring

FIELDS = (
    FieldSpec(name="device", of="request", kind="category", column="device"),
    FieldSpec(name="query", of="request", kind="text", column="query", size=4),
    FieldSpec(name="hour", of="request", kind="number", column="hour"),
    FieldSpec(name="taste", of="request", kind="vector", column="taste", size=2),
    FieldSpec(name="seen", of="request", kind="category_list", column="seen", size=3),
)
SCORES = np.array([0.0, 2.0, 1.0, 3.0, 1.0], np.float32)
"""Selector score by catalogue row: blank, wool, straw, blue, red."""
PCTR = np.array([0.03, 0.10, 0.02, 0.05, 0.01])


TRAINING_CTR = {"wool": 0.02, "straw": 0.10, "blue": 0.02, "red": 0.06}
"""(clicks + 1) / (impressions + 20) of the tiny catalogue."""
SAID_ONCE = {
    **TRAINING_CTR,
    "wool": 0.02 + NEWEST_SHARE * (0.10 - 0.02),
    "blue": 0.02 + NEWEST_SHARE * (0.05 - 0.02),
}
"""After one full answer, in which the ranker spoke of wool and blue."""


def mean_ctr(ctr):
    """Of the creatives of hat and shoe."""
    return np.array([(ctr["wool"] + ctr["straw"]) / 2, (ctr["blue"] + ctr["red"]) / 2])


def without_ranker(ctr):
    """CTR of wool and blue, which the selector chooses, by what is remembered."""
    standout = np.array([2 - (2 + 1) / 2, 3 - (3 + 1) / 2])
    return special.expit(special.logit(mean_ctr(ctr)) + standout).tolist()


def tiny_catalogue() -> Catalogue:
    catalogue = Catalogue.from_tables(
        pa.table(
            {
                "creative_id": ["wool", "straw", "blue", "red"],
                "ad_id": ["hat", "hat", "shoe", "shoe"],
            }
        ),
        pa.table({"ad_id": ["hat", "shoe"]}),
    )
    return replace(
        catalogue,
        clicks=np.array([0, 1.0, 9.0, 1.0, 5.0]),
        impressions=np.array([0, 80.0, 80.0, 80.0, 80.0]),
        prior=(1.0, 19.0),
    )


@dataclass
class Stage:
    """A handle's method: gives scores by catalogue row, or does what is asked."""

    by_row: np.ndarray
    release: str = "r1"
    error: Exception | None = None
    call_error: Exception | None = None
    """What the call itself raises, before there is an answer to wait for."""
    is_stuck: bool = False
    is_at_once: bool = False
    """Whether the answer is there when the call returns, as in one process."""
    num_calls: int = 0
    is_cancelled: bool = False
    page: object = None

    def remote(self, release, page, creatives, most_s):
        self.num_calls += 1
        self.page = page
        if self.call_error:
            raise self.call_error
        if self.is_at_once:
            answer = asyncio.get_running_loop().create_future()
            answer.set_result(StageAnswer(self.release, self.by_row[creatives]))
            return answer
        return asyncio.ensure_future(self._answer(creatives))

    async def _answer(self, creatives):
        if self.is_stuck:
            try:
                await asyncio.Event().wait()
            finally:
                self.is_cancelled = True
        if self.error:
            raise self.error
        return StageAnswer(self.release, self.by_row[creatives])


class Answers:
    """A handle's method that answers what several requests ask, by `Stage`s."""

    def __init__(self, stages):
        self._stages = stages

    async def remote(self, questions):
        return [
            await self._stages[one.method].remote(
                one.release, one.page, one.creatives, one.left_s
            )
            for one in questions
        ]


class LocalStage:
    """A stage's method in this process, that can be told to fail."""

    def __init__(self, by_row):
        self.by_row, self.num_calls, self.__name__ = by_row, 0, "stage"
        self.error = None
        self.release = None
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self, release, page, creatives):
        self.num_calls += 1
        self.may_end.wait(30)
        if self.error:
            raise self.error
        return StageAnswer(self.release or release, self.by_row[creatives])


@dataclass
class Service:
    """A gateway over stand-ins, with ways to ask it."""

    gateway: Gateway
    selector: Stage
    teacher: Stage
    ranker: Stage
    page: PageSource | None = None

    def send(self, body, *, path="/v1/decide", method="POST", headers=None):
        async def ask():
            transport = httpx.ASGITransport(
                create_http(self.gateway, page=self.page), raise_app_exceptions=False
            )
            async with httpx.AsyncClient(
                transport=transport, base_url="http://serve"
            ) as client:
                kind = "json" if isinstance(body, dict) else "content"
                return await client.request(
                    method,
                    path,
                    **{kind: body},
                    headers={"content-type": "application/json"} | (headers or {}),
                )

        return asyncio.run(ask())


@pytest.fixture
def release():
    return Release("r1", tiny_catalogue(), FIELDS)


@pytest.fixture
def make_service(release):
    def make(*, budget_s=5.0, log=None, shadow=None, rules=None, **settings):
        stages = SimpleNamespace(
            selector=Stage(SCORES), teacher=Stage(SCORES), ranker=Stage(PCTR)
        )
        held = settings.pop("held", None) or OneRelease("r1", ServedRelease(release))
        metrics = settings.pop("metrics", None)
        live = Arm(LIVE, None, DecisionSettings(**{"num_slots": 2, **settings}))
        gateway = Gateway(
            held,
            Stages(stages.selector, stages.teacher, stages.ranker),
            Rules(
                **{
                    "arms": Arms("arms", [], live),
                    "budget_s": budget_s,
                    **(rules or {}),
                }
            ),
            logs=Logs(log, **(shadow or {})),
            metrics=metrics,
        )
        return Service(gateway, stages.selector, stages.teacher, stages.ranker)

    return make


@pytest.fixture
def page_view():
    return {
        "request_id": "q1",
        "request_ts": "2026-01-02T03:04:05Z",
        "user_id": "u1",
        "features": {"device": "phone", "hour": 7},
        "candidates": [
            {"ad_id": "hat", "bid_micros": 100_000},
            {"ad_id": "shoe", "bid_micros": 400_000},
        ],
    }


@pytest.fixture
def make_whole(make_service, tmp_path):
    """Return what makes the application with an operator's routes and clicks too."""
    gateway = make_service(rules={"max_in_flight": 64}).gateway
    clicks = Clicks(ClickLog(tmp_path / "clicks", gateway.metrics), gateway.metrics)
    board = ReleaseBoard(tmp_path / "board")
    board.begin(Entry(bundle_id="r1", path="tiny"), ("gateway",))
    admin = Admin(board, tmp_path, "secret")
    yield partial(create_http, gateway, clicks=clicks, admin=admin)
    clicks.close()


@pytest.fixture
def make_bundle(tmp_path):
    def make(name):
        root = tmp_path / "releases" / name
        root.mkdir(parents=True)
        (root / "weights").write_text(name)
        write_manifest(root, "spec", {})
        return root

    return make


def entry(root):
    """Return a bundle as the release board names it."""
    return Entry(bundle_id=read_manifest(root)["bundle_id"], path=str(root))


@pytest.fixture
def make_replica(release, make_bundle, tmp_path, monkeypatch):
    """Make a gateway as a replica holds it, over stand-ins; closed at the end.

    Takes further arguments of the application.
    """
    # Both are of a whole process, which is the tests' here.
    monkeypatch.setattr("serve.app.configure_records", lambda **_: None)
    monkeypatch.setattr("serve.app.spare_what_lasts", lambda: None)
    made = []

    def make(**args):
        board = ReleaseBoard(tmp_path / "board")
        bundle = make_bundle("one")
        board.begin(entry(bundle), ("gateway",))
        told = AppArgs(bundle=str(bundle), **args)
        wiring = Wiring(told, board, {}, lambda _: release, lambda _: None)
        selector = {"selector_scores": Stage(SCORES)}
        ranker = {
            "teacher_scores": Stage(SCORES),
            "pctr": Stage(PCTR),
            "open_page": Stage(PCTR),
        }
        handles = [SimpleNamespace(answer=Answers(one)) for one in (selector, ranker)]
        made.append(HttpGateway(wiring, None, *handles))
        return made[-1]

    yield make
    for replica in made:
        replica.close()
