"""What a profile promises: equal windows do not drift, others say how far."""

from dataclasses import replace

import numpy as np
import pytest

from cacs_ray.features.batch import EncodedLog
from cacs_ray.features.profile import Profile, drift, make_profile
from cacs_ray.features.spec import FeatureSpec, FieldSpec

ROWS = 2000
SPEC = FeatureSpec(
    fields=(
        FieldSpec(name="user_id", of="user", kind="id", column="user_id"),
        FieldSpec(name="kind", of="ad", kind="category", column="kind"),
        FieldSpec(name="look", of="creative", kind="vector", column="look", size=2),
        FieldSpec(name="hour", of="request", kind="number", column="hour"),
        FieldSpec(name="seen", of="request", kind="category_list", column="s", size=3),
    ),
    vocabularies=(),
)
KEYS = ["user.user_id", "ad.kind", "creative.look", "request.hour", "request.seen"]


def window(seed):
    """Draw impressions of 50 users, 4 ads and 8 creatives, all alike."""
    rng = np.random.default_rng(seed)
    ad = rng.integers(1, 5, ROWS)
    looks = np.random.default_rng(9).normal(size=(9, 3))
    looks[:, 2] = 1
    return EncodedLog(
        users={"user.user_id": np.arange(51, dtype=np.int32)},
        ads={"ad.kind": np.array([0, 1, 1, 2, 2], np.int32)},
        creatives={"creative.look": looks.astype(np.float16)},
        creative_ad_row=np.repeat(np.arange(5), 2)[1:].astype(np.int32),
        requests={
            "request.hour": np.stack(
                [rng.normal(size=ROWS), np.zeros(ROWS)], axis=1
            ).astype(np.float32),
            "request.seen": rng.integers(0, 4, (ROWS, 3)).astype(np.int32),
        },
        lists=np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.int32),
        user_row=rng.integers(1, 51, ROWS).astype(np.int32),
        ad_row=ad.astype(np.int32),
        list_row=(ad - 1).astype(np.int32),
        shown_index=rng.integers(0, 2, ROWS).astype(np.int32),
        slot=np.zeros(ROWS, np.int32),
        label=np.zeros(ROWS, np.float32),
        weight=np.ones(ROWS, np.float32),
        propensity=np.full(ROWS, 0.5, np.float32),
        request_ts=np.arange(ROWS),
        bid_micros=np.ones(ROWS, np.int64),
        request_row=np.arange(ROWS, dtype=np.int32),
    )


def divergences(log):
    found = drift(make_profile(window(0), SPEC), log, SPEC)
    return {key: field["divergence"] for key, field in found.items()}


def test_another_draw_of_the_same_does_not_drift():
    found = divergences(window(1))
    assert list(found) == KEYS
    assert max(found.values()) < 0.01


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"user_row": np.zeros(ROWS, np.int32)}, "user.user_id"),
        ({"ad_row": np.full(ROWS, 1, np.int32)}, "ad.kind"),
        ({"list_row": np.full(ROWS, 2, np.int32)}, "creative.look"),
    ],
)
def test_what_has_moved_is_named_and_nothing_else(change, key):
    found = divergences(replace(window(1), **change))
    assert found.pop(key) > 0.1
    assert max(found.values()) < 0.01


def test_numbers_and_lists_of_requests_are_watched_too():
    log = window(1)
    later = log.requests["request.hour"] + np.array([1.0, 0.0], np.float32)
    none = np.zeros((ROWS, 3), np.int32)
    found = divergences(
        replace(log, requests={"request.hour": later, "request.seen": none})
    )
    assert found["request.hour"] > 0.1
    assert found["request.seen"] > 0.5


def test_shares_count_impressions_by_their_weight():
    heavy = np.where(window(0).ad_row <= 2, 3.0, 1.0).astype(np.float32)
    profile = make_profile(replace(window(0), weight=heavy), SPEC)
    shares = profile.fields["ad.kind"].shares
    assert shares[0] == 0
    assert shares[1] == pytest.approx(3 / (3 + 1), abs=0.02)


def test_a_profile_survives_its_json_and_an_empty_window_says_nothing():
    profile = make_profile(window(0), SPEC)
    assert Profile.model_validate_json(profile.model_dump_json()) == profile
    assert drift(Profile(), window(1), SPEC) == {}
