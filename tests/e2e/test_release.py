"""What leaves training answers alike everywhere: golden requests, logs replayed."""

import asyncio
import itertools
import json
import shutil

import httpx
import polars as pl
import pytest

from cacs_ray.answers.local import decide_requests
from cacs_ray.bundle import Predictor
from cacs_ray.data.dataset import read_dataset
from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.errors import InputError
from cacs_ray.golden import NUM_ADS, NUM_REQUESTS, replay_golden
from cacs_ray.manifest import write_manifest
from cacs_ray.models.plain_selector import PlainSelector
from cacs_ray.models.selector import Selector
from cacs_ray.promises.siblings import write_broken, write_sibling
from cacs_ray.schema import DECISIONS, Column
from jobs import cycle, join_feedback
from serve.api import Click, ClicksRequest, DecideRequest
from serve.app import HANGS_S, HttpGateway
from serve.arguments import AppArgs
from serve.arms import LIVE, Arm, Arms
from serve.clicks import Clicks
from serve.decision_log import ClickLog, DecisionLog
from serve.fused import in_process, local_stages
from serve.gateway import Gateway, Logs, Rules, ServedRelease
from serve.holder import OneRelease
from serve.metrics import Metrics
from serve.release import load_release
from serve.stage import InProcess, StageRelease, load_predictor
from serve.straight import Straight
from serve.wiring import wire


def test_a_bundle_answers_its_golden_requests(walk):
    bundle = walk / "run" / "bundle"
    asked = json.loads((bundle / "golden.json").read_text())["requests"]
    assert len(asked) == NUM_REQUESTS * NUM_ADS
    assert {type(row["user_id"]) for row in asked} == {str, type(None)}
    assert replay_golden(bundle, Predictor.load(bundle)) == len(asked)


@pytest.mark.parametrize("name", ["selector_scores", "pctr", "pctr_unknown_creative"])
def test_a_bundle_that_answers_otherwise_is_refused(walk, tmp_path, name):
    bundle = walk / "run" / "bundle"
    kept = json.loads((bundle / "golden.json").read_text())
    first = kept["answers"][name]
    place = first[0] if isinstance(first[0], list) else first
    place[0] += 0.001
    (tmp_path / "golden.json").write_text(json.dumps(kept))

    with pytest.raises(InputError, match="golden") as caught:
        replay_golden(tmp_path, Predictor.load(bundle))
    assert caught.value.field == name


@pytest.mark.parametrize("selector", [PlainSelector, Selector])
def test_golden_requests_are_replayed_as_served_and_as_files_are_decided(
    walk, monkeypatch, selector
):
    bundle = walk / "run" / "bundle"
    predictor = Predictor.load(bundle)
    score = selector.score
    monkeypatch.setattr(selector, "score", lambda *args: score(*args) + 0.001)

    with pytest.raises(InputError, match="golden") as caught:
        replay_golden(bundle, predictor)
    assert caught.value.field == "selector_scores"


def gateway_over(bundle, log, **settings):
    """A gateway with the stages of a bundle in this process."""
    served = ServedRelease(load_release(bundle), StageRelease(load_predictor(bundle)))
    releases = OneRelease(served.release.bundle_id, served)
    stages = local_stages(releases)
    live = Arm(LIVE, None, DecisionSettings(**settings))
    return Gateway(
        releases,
        in_process(stages),
        Rules(Arms("arms", [], live), budget_s=30.0),
        logs=Logs(log),
        straight=Straight(stages),
    )


def page_views(walk, number):
    """Requests of the market's next day, as they come over the wire."""
    asked = pl.read_parquet(walk / "market" / "truth" / "requests.parquet")
    for rows in asked.partition_by(Column.REQUEST_ID, maintain_order=True)[:number]:
        first = rows.row(0, named=True)
        yield DecideRequest(
            request_id=first[Column.REQUEST_ID],
            request_ts=first[Column.REQUEST_TS],
            user_id=first[Column.USER_ID],
            features={"device": first["device"]},
            candidates=rows.select(Column.AD_ID, Column.BID_MICROS).to_dicts(),
        )


def pinned(request, pins):
    """The same request with a pin on those of its ads that have one."""
    candidates = [
        one.model_copy(update={"pinned_creative_id": pins.get(one.ad_id)})
        for one in request.candidates
    ]
    return request.model_copy(update={"candidates": candidates})


@pytest.fixture(scope="module")
def log_of(walk, tmp_path_factory):
    """Serve some requests with exploration; return the decision log's rows."""

    def serve(pins=(), **settings):
        directory = tmp_path_factory.mktemp("log")
        log = DecisionLog(directory, Metrics())
        gateway = gateway_over(walk / "run" / "bundle", log, **settings)

        async def ask():
            for request in page_views(walk, 40):
                await gateway.decide(pinned(request, dict(pins)))

        asyncio.run(ask())
        gateway.close()
        return directory, pl.read_parquet(directory / "*.parquet")

    return serve


@pytest.mark.parametrize(
    "settings",
    [
        {"policy": "cacs", "epsilon": 0.4},
        {"policy": "parallel", "epsilon": 0.4},
        {"policy": "thompson"},
        {"policy": "thompson", "thompson_prior": "content"},
        {"policy": "post_rank"},
        {"policy": "rank_only"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_decisions_are_repeated_from_the_log_bit_for_bit(walk, log_of, settings):
    """By the batch door: it shares nothing with serving but the library."""
    settings = {"num_slots": 2, **settings}
    _, logged = log_of(**settings)
    assert_repeats(walk, logged, settings)
    is_drawn = logged[Column.PROPENSITY] < 1
    assert is_drawn.any() or settings["policy"] in ("post_rank", "rank_only")


def test_pins_leave_one_candidate_in_the_log_and_are_repeated_from_it(walk, log_of):
    settings = {"num_slots": 2, "policy": "cacs", "epsilon": 0.4}
    _, free = log_of(**settings)
    last = pl.col(Column.CANDIDATE_CREATIVE_IDS).list.last()
    several = free.filter(pl.col(Column.CANDIDATE_CREATIVE_IDS).list.len() > 1)
    pins = dict(several.select(Column.AD_ID, last).gather_every(2).iter_rows())

    _, logged = log_of(pins, **settings)

    of_pins = logged.filter(pl.col(Column.AD_ID).is_in(list(pins)))
    assert of_pins.height
    for row in of_pins.iter_rows(named=True):
        pin = pins[row[Column.AD_ID]]
        assert row[Column.CREATIVE_ID] == pin
        assert row[Column.CANDIDATE_CREATIVE_IDS] == [pin]
        assert row[Column.PROPENSITY] == 1
    assert_repeats(walk, logged, settings)


def assert_repeats(walk, logged, settings):
    """The batch door decides what was logged again, to the last bit."""
    predictor = Predictor.load(walk / "run" / "bundle")
    for rows in logged.partition_by(Column.REQUEST_ID, maintain_order=True):
        asked = rows.select(
            Column.REQUEST_ID,
            Column.REQUEST_TS,
            Column.USER_ID,
            Column.AD_ID,
            Column.BID_MICROS,
            "device",
            pl.col(Column.CANDIDATE_CREATIVE_IDS).alias(Column.CREATIVE_IDS),
        )
        again, rejects = decide_requests(
            predictor, asked.to_arrow(), DecisionSettings(**settings)
        )
        assert rejects.num_rows == 0
        expected = rows.select(DECISIONS.names).to_arrow().cast(DECISIONS)
        assert again.select(DECISIONS.names).cast(DECISIONS).equals(expected)


def test_what_was_served_and_clicked_is_learnt_from_next(walk, log_of, tmp_path):
    directory, logged = log_of(policy="random", num_slots=3)
    shown = logged.filter(pl.col(Column.SLOT).is_not_null())
    # Every seventh ad that was shown is clicked, a second later, and sent twice.
    clicked = shown.gather_every(7)
    clicks = Clicks(ClickLog(tmp_path / "clicks", Metrics()), Metrics())
    asked = ClicksRequest(
        clicks=[
            Click(request_id=r, ad_id=a, click_ts=t)
            for r, a, t in clicked.select(
                Column.REQUEST_ID,
                Column.AD_ID,
                pl.col(Column.REQUEST_TS) + pl.duration(seconds=1),
            ).iter_rows()
        ]
    )
    for _ in range(2):
        assert clicks.accept(asked).accepted == clicked.height
    clicks.close()

    code = join_feedback.main(
        [
            "--decisions", str(directory),
            "--clicks", str(tmp_path / "clicks"),
            "--out", str(tmp_path / "next"),
            "--dataset", str(walk / "market"),
        ]
    )  # fmt: skip

    assert code == 0
    impressions = pl.read_parquet(tmp_path / "next" / "impressions" / "*.parquet")
    assert impressions.height == shown.height
    assert impressions[Column.IS_CLICKED].sum() == clicked.height
    declared = {f.name for f in read_dataset(tmp_path / "next").features}
    assert declared == {f.name for f in read_dataset(walk / "market").features}
    learnt = cycle.main(
        [
            "--logs", str(tmp_path / "next"),
            "--out", str(tmp_path / "run"),
            "--recipe", "smoke",
            "--until", "features",
            "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db",
            "--set", "features.text_encoder=hashed-ngrams",
        ]
    )  # fmt: skip
    assert learnt == 0


def write_liar(bundle, out):
    """A bundle whose files are whole, but that scores otherwise than it says."""
    shutil.copytree(bundle, out)
    calibration = json.loads((out / "calibration.json").read_text())
    calibration["intercept"] += 0.1
    (out / "calibration.json").write_text(json.dumps(calibration))
    manifest = json.loads((out / "manifest.json").read_text())
    write_manifest(out, manifest["spec_fingerprint"], manifest["lineage"])


@pytest.fixture
def served(walk, tmp_path, kept_loggers):
    """The whole application in this process, beside two more releases."""
    releases = tmp_path / "releases"
    shutil.copytree(walk / "run" / "bundle", releases / "old")
    write_sibling(releases / "old", releases / "next")
    write_broken(releases / "next", releases / "torn")
    write_liar(releases / "next", releases / "liar")
    (tmp_path / "token").write_text("secret\n")
    args = AppArgs(
        bundle=str(releases / "old"),
        releases=str(releases),
        admin_token_file=str(tmp_path / "token"),
        state=str(tmp_path / "state"),
        decision_log=str(tmp_path / "log"),
        budget_ms=10_000,
        fused=True,
    )
    gateway = HttpGateway(wire(args), None)
    yield gateway
    gateway.close()


def test_ray_serve_is_told_of_a_replica_that_cannot_mend_itself(served, monkeypatch):
    asyncio.run(served.check_health())
    for asked in (Straight, InProcess):
        with monkeypatch.context() as hung:
            hung.setattr(asked, "hangs_s", HANGS_S + 1)
            with pytest.raises(RuntimeError, match="hangs for 61 s"):
                asyncio.run(served.check_health())
    served._releases.stop()
    served._releases._thread.join(10)
    with pytest.raises(RuntimeError, match="followed no more"):
        asyncio.run(served.check_health())


def test_releases_change_under_requests_and_each_answers_whole(walk, served, tmp_path):
    http = served.__serve_build_asgi_app__()
    token = {"authorization": "Bearer secret"}
    bodies = [
        request.model_dump(mode="json", exclude_none=True)
        for request in page_views(walk, 8)
    ]

    async def scenario():
        transport = httpx.ASGITransport(http)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", timeout=60
        ) as client:
            answers, is_over = [], asyncio.Event()

            async def ask_on():
                while not is_over.is_set():
                    for number, body in enumerate(bodies):
                        told = {**body, "request_id": f"q{len(answers)}-{number}"}
                        answers.append(await client.post("/v1/decide", json=told))

            async def swap(name):
                return await client.post(
                    "/admin/releases?wait_s=60", json={"bundle": name}, headers=token
                )

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(ask_on())
                steps = [await swap(name) for name in ("next", "torn", "liar")]
                steps.append(await client.post("/admin/rollback", headers=token))
                is_over.set()
            return answers, steps

    answers, (taken, torn, liar, back) = asyncio.run(scenario())

    assert [taken.status_code, back.status_code] == [200, 200]
    assert [torn.status_code, torn.json()["problems"][0]["rule"]] == [409, "digest"]
    assert liar.status_code == 409
    assert "golden requests get other scores" in liar.json()["reason"]
    old, new = back.json()["live"], taken.json()["live"]
    assert old != new
    decided = [answer.json() for answer in answers if answer.status_code == 200]
    assert len(decided) == len(answers)
    assert not any(one["is_fallback"] for one in decided)
    order = [one["release"] for one in decided]
    # First the old one, then the new one, and the old one again: never in between.
    changes = [a for a, b in itertools.pairwise([*order, None]) if a != b]
    assert changes in ([old, new, old], [old, new])
    served.close()
    logged = pl.read_parquet(tmp_path / "log" / "*.parquet")
    told = logged.group_by(Column.REQUEST_ID).agg(pl.col("release").n_unique())
    assert told["release"].max() == 1
    assert told.height == len(answers)
