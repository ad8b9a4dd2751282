"""What the pages for people promise, route by route."""

import asyncio
import io
import json
import os
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import serve.evidence
from cacs_ray.data.dataset import read_dataset, write_dataset
from cacs_ray.data.declaration import FeatureDeclaration
from cacs_ray.schema import CLICKS, DECISIONS, IMPRESSIONS
from serve.display import THUMBNAIL_SIDE, open_dataset
from serve.evidence import EvidenceSource
from serve.page import PageSource, _aside, find_ads
from tests.unit.serve.conftest import tiny_catalogue

FILES = Path(serve.evidence.__file__).with_name("page_files")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def png(side=8, colour="red"):
    encoded = io.BytesIO()
    Image.new("RGB", (side, side // 2), colour).save(encoded, "PNG")
    return encoded.getvalue()


def features(**kinds):
    sides = {"device": "request", "hour": "request", "price": "ad", "brand": "ad"}
    return [
        FeatureDeclaration(name=name, of=sides.get(name, "creative"), kind=kind)
        for name, kind in kinds.items()
    ]


@pytest.fixture
def make_page(tmp_path):
    """Write a dataset of the tiny market whose creatives have these pictures."""

    def make(images, **evidence):
        creatives = {
            "creative_id": ["wool", "straw", "blue", "red"],
            "ad_id": ["hat", "hat", "shoe", "shoe"],
            "title": ["Warm wool", None, "Blue & <b>bold</b>", ""],
            "image": images,
        }
        pq.write_table(pa.table(creatives), tmp_path / "creatives.parquet")
        ads = {"ad_id": ["hat", "shoe"], "price": [12.5, None], "brand": ["Acme", "B"]}
        pq.write_table(pa.table(ads), tmp_path / "ads.parquet")
        rows = [
            {
                "request_id": f"r{n // 2}",
                "request_ts": NOON + timedelta(minutes=n),
                "user_id": f"u{n // 2}",
                "ad_id": ["hat", "shoe"][n % 2],
                "creative_id": ["wool", "blue"][n % 2],
                "slot": n % 2,
                "is_clicked": False,
                "bid_micros": 70_000,
                "device": "phone",
                "hour": 7.0,
            }
            for n in range(8)
        ]
        declared = [("device", pa.string()), ("hour", pa.float64())]
        schema = pa.schema([*IMPRESSIONS, *declared])
        pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "log.parquet")
        write_dataset(
            tmp_path,
            tables={
                "impressions": "log.parquet",
                "creatives": "creatives.parquet",
                "ads": "ads.parquet",
            },
            features=features(
                device="category",
                hour="number",
                price="number",
                brand="category",
                title="text",
                image="image",
            ),
        )
        return PageSource(read_dataset(tmp_path), EvidenceSource(**evidence))

    return make


@pytest.fixture
def service(make_service):
    return make_service()


def get(service, path):
    return service.send(None, path=path, method="GET")


def picture(service, creative_id):
    return get(service, f"/page/creatives/{creative_id}/picture")


@pytest.mark.parametrize("path", ["/", "/evidence"])
def test_a_page_runs_only_what_this_service_serves(service, path):
    page = get(service, path)
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    text = page.text
    assert not re.search(
        r"<style|\son\w+=|\sstyle=|<script(?! type=\"module\" src=)", text
    )
    # Under a route prefix, a path from the root would lead elsewhere.
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert links
    assert not [link for link in links if link.startswith(("/", "http"))]
    for link in links:
        assert get(service, f"/{link.removeprefix('./')}").status_code in (200, 307)


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.iterdir()))
def test_every_file_is_served_and_fetches_from_nowhere_else(service, name):
    file = get(service, f"/page/files/{name}")
    kinds = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
    assert file.headers["content-type"].startswith(
        kinds.get(Path(name).suffix, "image/svg+xml")
    )
    assert file.content == (FILES / name).read_bytes()
    assert not re.search(
        r"https?://(?!www\.w3\.org/)|@import|innerHTML|eval\(", file.text
    )


@pytest.mark.parametrize("name", ["x.js", "..%2fpage.py", "..%2f..%2fpyproject.toml"])
def test_no_other_file_is_served(service, name):
    assert get(service, f"/page/files/{name}").status_code == 404


def test_a_creative_without_a_picture_is_drawn_from_its_id(service):
    first, again = picture(service, "wool"), picture(service, "wool")
    assert first.headers["content-type"] == "image/svg+xml"
    assert "sandbox" in first.headers["content-security-policy"]
    assert ">wool</text>" in first.text
    assert first.text == again.text != picture(service, "straw").text


def test_a_picture_is_decoded_and_sent_in_small(make_service, make_page, tmp_path):
    (tmp_path / "big.png").write_bytes(png(2000))
    service = make_service()
    service.page = make_page(["big.png", None, None, None])
    answer = picture(service, "wool")
    assert answer.headers["content-type"] == "image/jpeg"
    shown = Image.open(io.BytesIO(answer.content))
    assert shown.format == "JPEG"
    assert shown.size == (THUMBNAIL_SIDE, THUMBNAIL_SIDE // 2)
    assert picture(service, "straw").headers["content-type"] == "image/svg+xml"


def test_pictures_may_stand_in_the_table_itself(make_service, make_page):
    service = make_service()
    service.page = make_page([png(colour="red"), png(colour="blue"), None, b"no"])
    colours = []
    for creative_id in ("wool", "straw"):
        shown = Image.open(io.BytesIO(picture(service, creative_id).content))
        colours.append(max(zip(shown.getpixel((2, 2)), "rgb", strict=True))[1])
    assert colours == ["r", "b"]
    assert picture(service, "red").headers["content-type"] == "image/svg+xml"


def test_nothing_outside_the_dataset_is_shown(make_service, make_page, tmp_path):
    outside = tmp_path.parent / f"{tmp_path.name}-secret.png"
    outside.write_bytes(png())
    (tmp_path / "link.png").symlink_to(outside)
    (tmp_path / "text.png").write_bytes(b"root:x:0:0")
    service = make_service()
    service.page = make_page(
        [f"../{outside.name}", "link.png", "text.png", str(outside)]
    )
    for creative_id in ("wool", "straw", "blue", "red"):
        answer = picture(service, creative_id)
        assert answer.headers["content-type"] == "image/svg+xml", creative_id


@pytest.mark.parametrize("name", ["felt", "..%2f..%2fbig.png", "big.png", "hat", "%00"])
def test_only_creatives_of_the_catalogue_have_a_picture(
    make_service, make_page, tmp_path, name
):
    (tmp_path / "big.png").write_bytes(png())
    service = make_service()
    service.page = make_page(["big.png"] * 4)
    assert picture(service, name).status_code == 404


def test_labels_tell_titles_and_facts_of_known_ads(make_service, make_page):
    service = make_service()
    service.page = make_page([None, "a.png", None, None])
    answer = service.send({"ad_ids": ["shoe", "nobody", "hat"]}, path="/page/ads")
    assert answer.json() == [
        {
            "ad_id": "shoe",
            "facts": {"brand": "B"},
            "titles": {"blue": "Blue & <b>bold</b>", "red": ""},
        },
        {
            "ad_id": "hat",
            "facts": {"price": "12.5", "brand": "Acme"},
            "titles": {"wool": "Warm wool", "straw": ""},
        },
    ]


@pytest.mark.parametrize("body", [{"ad_ids": []}, {"ad_ids": ["a"] * 501}, {"x": 1}])
def test_labels_are_asked_for_strictly(service, body):
    assert service.send(body, path="/page/ads").status_code == 422


def test_the_page_works_without_a_dataset(service):
    (label,) = service.send({"ad_ids": ["hat"]}, path="/page/ads").json()
    assert label == {"ad_id": "hat", "facts": {}, "titles": {"wool": "", "straw": ""}}


def test_every_example_is_answered_for_all_its_ads(make_service, make_page):
    service = make_service()
    service.page = make_page([None] * 3 + ["a.png"])
    told = get(service, "/page/examples").json()
    logged = [e for e in told["examples"] if e["name"].startswith("Visitor")]
    assert [e["request"]["user_id"] for e in logged] == ["u0", "u1", "u2"]
    assert logged[0]["request"]["features"] == {"device": "phone", "hour": 7.0}
    assert logged[0]["note"] == "phone, 2026-03-01 12:00"
    assert len(told["examples"]) > len(logged)
    for example in told["examples"]:
        answer = service.send(json.dumps(example["request"]), path="/v1/preview")
        assert answer.status_code == 200, answer.text
        assert {one["ad_id"] for one in answer.json()["candidates"]} == {"hat", "shoe"}
    assert {field["column"] for field in told["fields"]} >= {"device", "hour", "seen"}


def test_examples_need_no_dataset(service):
    examples = get(service, "/page/examples").json()["examples"]
    assert {e["name"] for e in examples} >= {"Well-known ads", "Many creatives"}


def test_ads_are_found_by_their_ids_or_by_a_creative():
    catalogue = tiny_catalogue()
    assert find_ads(catalogue, "ho") == ["shoe"]
    assert find_ads(catalogue, "straw") == ["hat"]
    assert set(find_ads(catalogue, "")) == {"hat", "shoe"}
    assert find_ads(catalogue, "nobody") == []


def test_a_damaged_dataset_keeps_no_service_from_starting(tmp_path, caplog):
    assert open_dataset(str(tmp_path)) is None
    assert "dataset" in caplog.text


def test_evidence_of_training_follows_the_published_rule(make_service, release):
    release.catalogue.impressions[1:3] = [400, 300]
    release.catalogue.clicks[1:3] = [6, 90]
    evidence = get(make_service(), "/page/evidence?ad_id=hat").json()
    training, live = evidence["tables"]
    assert [(one["creative_id"], one["state"]) for one in training["creatives"]] == [
        ("wool", "worse"),
        ("straw", "better"),
    ]
    first = training["creatives"][0]
    assert first["low"] < first["ctr"] == 6 / 400 < first["high"]
    assert training["ctr"] == pytest.approx(96 / 700)
    assert live["creatives"] == []
    assert "no decision log" in live["note"]
    assert set(evidence["rule"]) == {"fatigued", "worse", "better", "learning"}


def test_evidence_of_an_unknown_ad_is_not_found(service):
    assert get(service, "/page/evidence?ad_id=nobody").status_code == 404
    assert get(service, "/page/evidence").status_code == 422


def write_log(directory, name, days, *, num=200, every=10):
    """Write decisions that showed wool, and a click on every so many-th of them."""
    rows = [
        {
            "request_id": f"{name}-{day}-{n}",
            "request_ts": NOON + timedelta(days=day),
            "ad_id": "hat",
            "creative_id": "wool",
            "candidate_creative_ids": ["wool", "straw"],
            "propensity": 1.0,
            "pctr": 0.1,
            "bid_micros": 1,
            "ecpm_micros": 1.0,
            "slot": 0 if n % 2 else None,
            "policy": "cacs",
            "release": "r1",
            "is_fallback": False,
        }
        for day in days
        for n in range(2 * num)
    ]
    clicks = [
        {
            "request_id": row["request_id"],
            "ad_id": "hat",
            "click_ts": row["request_ts"] + timedelta(minutes=1),
        }
        for n, row in enumerate(row for row in rows if row["slot"] == 0)
        if n % every == 0
    ]
    for folder, part, schema in (
        ("decisions", rows, DECISIONS),
        ("clicks", clicks, CLICKS),
    ):
        (directory / folder).mkdir(exist_ok=True)
        table = pa.Table.from_pylist(part, schema)
        pq.write_table(table, directory / folder / f"{name}.parquet")


@pytest.fixture
def logged(make_service, tmp_path):
    service = make_service()
    service.page = PageSource(
        None, EvidenceSource(str(tmp_path / "decisions"), str(tmp_path / "clicks"))
    )
    return service


def live_table(service):
    evidence = get(service, "/page/evidence?ad_id=hat").json()
    return evidence["tables"][1]


def test_evidence_of_the_log_sees_a_creative_tire(logged, tmp_path):
    write_log(tmp_path, "early", [0, 1], every=4)
    write_log(tmp_path, "late", [20, 21], every=40)
    (wool,) = live_table(logged)["creatives"]
    assert (wool["impressions"], wool["clicks"]) == (800, 110)
    assert wool["state"] == "fatigued"
    assert "own past" in wool["reason"]


def test_only_the_newest_of_a_long_log_is_read(logged, tmp_path, monkeypatch):
    monkeypatch.setattr(serve.evidence, "MAX_LOG_ROWS", 500)
    write_log(tmp_path, "early", [0])
    write_log(tmp_path, "late", [1])
    for place in ("decisions", "clicks"):
        os.utime(tmp_path / place / "early.parquet", (1, 1))
    (wool,) = live_table(logged)["creatives"]
    assert wool["impressions"] == 200


def test_a_log_is_not_read_again_at_every_look(logged, tmp_path):
    write_log(tmp_path, "early", [0])
    assert live_table(logged)["creatives"][0]["impressions"] == 200
    write_log(tmp_path, "late", [1])
    assert live_table(logged)["creatives"][0]["impressions"] == 200


def test_an_empty_or_damaged_log_is_told_in_words(logged, tmp_path):
    assert "cannot be read" in live_table(logged)["note"]
    for place in ("decisions", "clicks"):
        (tmp_path / place).mkdir()
    assert "yet" in live_table(logged)["note"]


def test_a_torn_file_is_told_in_words(logged, tmp_path):
    write_log(tmp_path, "early", [0])
    (tmp_path / "decisions" / "torn.parquet").write_bytes(b"PAR1torn")
    assert "cannot be read" in live_table(logged)["note"]


def test_pages_work_in_threads_of_their_own(make_service):
    """A crowd that looks at pages must not hold the threads that score."""

    async def both():
        return (
            await _aside(threading.current_thread),
            await asyncio.to_thread(threading.current_thread),
        )

    ours, default = asyncio.run(both())
    assert ours.name.startswith("page")
    assert ours != default
