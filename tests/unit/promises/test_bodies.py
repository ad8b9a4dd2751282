"""Bodies have the size that is asked for, where the catalogue has it."""

import json

import pyarrow as pa
import pytest

from cacs_ray.errors import InputError
from cacs_ray.features.catalogue import Catalogue
from cacs_ray.promises import bodies
from serve.api import DecideRequest


def catalogue(*sizes):
    rows = [
        (f"c{ad}-{n}", f"a{ad}") for ad, size in enumerate(sizes) for n in range(size)
    ]
    ids, ads = zip(*rows, strict=True)
    return Catalogue.from_tables(
        pa.table({"creative_id": ids, "ad_id": ads}),
        pa.table({"ad_id": [f"a{ad}" for ad in range(len(sizes))]}),
    )


@pytest.fixture
def made(monkeypatch):
    def make(*sizes, **options):
        monkeypatch.setattr(bodies, "read_manifest", lambda _: {})
        monkeypatch.setattr(bodies, "read_catalogue", lambda _: catalogue(*sizes))
        return bodies.bundle_bodies("bundle", **options)

    return make


def test_ads_with_more_creatives_are_restricted(made):
    request = json.loads(made(3, 9, 8, num_ads=2, num_creatives=8).body(0, "q"))
    assert request["request_id"] == "q"
    asked = {one["ad_id"]: one["creative_ids"] for one in request["candidates"]}
    assert {ad: len(ids) for ad, ids in asked.items()} == {"a1": 8, "a2": 8}


def test_where_few_ads_have_as_many_the_shape_says_so(made):
    small = made(1, 2, 3, num_ads=2, num_creatives=8)
    assert small.shape.startswith("2 ads x 2.5 creatives")


def test_every_body_is_a_request_of_the_service(made):
    some = made(9, 9, 9, num_ads=3)
    for index in range(5):
        asked = DecideRequest.model_validate_json(some.body(index, f"q{index}"))
        assert asked.request_id == f"q{index}"
        assert asked.candidates[0].bid_micros > 0


def test_bodies_differ_and_are_repeated_by_seed(made):
    assert made(9, 9, 9, num_ads=2) == made(9, 9, 9, num_ads=2)
    some = made(9, 9, 9, num_ads=2)
    assert some.body(0, "q") != some.body(1, "q")
    assert some.body(0, "q") == some.body(bodies.NUM_DIFFERENT, "q")


def test_no_request_is_an_error():
    with pytest.raises(InputError):
        bodies.json_bodies([], "none")
