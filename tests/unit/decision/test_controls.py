"""What an operator's word promises: it comes before the choice, and is logged."""

import asyncio
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from cacs_ray.answers.prepare import prepare_requests
from cacs_ray.decision.cascade import DecisionSettings, decide
from cacs_ray.decision.controls import (
    AdControl,
    Controls,
    CreativeControl,
    control_rows,
)
from cacs_ray.decision.creative_policy import (
    cap_exploration,
    cap_shares,
    content_prior,
    epsilon_greedy_probabilities,
)
from cacs_ray.features.catalogue import Catalogue

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
HOUR_EARLIER, HOUR_LATER = NOON.replace(hour=11), NOON.replace(hour=13)

CATALOGUE = Catalogue.from_tables(
    pa.table(
        {
            "creative_id": ["wool", "straw", "felt", "blue"],
            "ad_id": ["hat", "hat", "hat", "shoe"],
        }
    ),
    pa.table({"ad_id": ["hat", "shoe"]}),
)


def prepared(*creatives, ads=(), max_exploration=1.0, pin=None):
    controls = Controls(creatives=creatives, ads=ads, max_exploration=max_exploration)
    asked = pa.table(
        {
            "request_id": ["q", "q"],
            "request_ts": pa.array([NOON] * 2, pa.timestamp("us", "UTC")),
            "user_id": pa.nulls(2, pa.string()),
            "ad_id": ["hat", "shoe"],
            "bid_micros": [100, 100],
            "pinned_creative_id": pa.array([pin, None], pa.string()),
        }
    )
    rows = control_rows(controls, CATALOGUE.creative_ids, CATALOGUE.ad_ids)
    return prepare_requests(CATALOGUE, asked, controls=rows)


def hats(found):
    listed = found.candidates.creative_lists[0]
    return [CATALOGUE.creative_ids[row] for row in listed if row]


class LikesTheFirst:
    """Scores every creative by minus its row; all ads are alike to it."""

    async def selector_scores(self, candidates):
        return -candidates.creative_lists.astype(float)

    async def pctr(self, candidates, creative_row):
        return np.full(len(creative_row), 0.1)


def decided(found, **settings):
    settings = DecisionSettings(**settings)
    return asyncio.run(decide(found.candidates, LikesTheFirst(), settings))


@pytest.mark.parametrize(
    "control",
    [
        {"is_excluded": True},
        {"from_ts": HOUR_LATER},
        {"until_ts": HOUR_EARLIER},
        {"until_ts": NOON},
    ],
)
def test_a_creative_that_may_not_be_shown_is_no_candidate(control):
    found = prepared(CreativeControl(creative_id="wool", **control))
    assert hats(found) == ["straw", "felt"]
    # What is logged as candidates is what could have been chosen.
    assert decided(found, epsilon=1.0).propensity[0] == pytest.approx(1 / 2)


@pytest.mark.parametrize("control", [{"from_ts": NOON}, {"until_ts": HOUR_LATER}])
def test_a_schedule_is_half_open(control):
    found = prepared(CreativeControl(creative_id="wool", **control))
    assert hats(found) == ["wool", "straw", "felt"]


def test_an_ad_without_a_creative_left_takes_no_part():
    found = prepared(CreativeControl(creative_id="blue", is_excluded=True))
    assert found.candidates.ad_ids == ("hat",)
    assert found.rejects["rule"].to_pylist() == ["creative_excluded"]


def test_an_exclusion_beats_the_pin_of_a_request():
    found = prepared(CreativeControl(creative_id="wool", is_excluded=True), pin="wool")
    assert found.rejects["ad_id"].to_pylist() == ["hat"]
    assert found.rejects["rule"].to_pylist() == ["creative_excluded"]


def test_a_pin_is_shown_unless_the_request_pins_another_one():
    pin = AdControl(ad_id="hat", pinned_creative_id="felt")
    for asked, shown in ((None, "felt"), ("straw", "straw")):
        decisions = decided(prepared(ads=[pin], pin=asked), epsilon=1.0)
        assert CATALOGUE.creative_ids[decisions.creative_row[0]] == shown
        assert decisions.propensity[0] == 1


@pytest.mark.parametrize("pinned", ["blue", "unknown"])
def test_a_pin_of_what_is_not_the_ads_is_left_out(pinned):
    found = prepared(ads=[AdControl(ad_id="hat", pinned_creative_id=pinned)])
    assert not found.candidates.pinned.any()


def test_what_a_release_does_not_hold_is_left_out():
    found = prepared(CreativeControl(creative_id="gone", is_excluded=True))
    assert hats(found) == ["wool", "straw", "felt"]
    assert found.candidates.max_share is None
    assert found.candidates.max_exploration is None


def test_a_cap_bounds_the_share_and_the_propensity_is_that_share():
    found = prepared(CreativeControl(creative_id="wool", max_share=0.25))
    told = decided(found).list_probabilities[0]
    assert told == pytest.approx([0.25, 0.375, 0.375])
    ids = [f"q{i}" for i in range(3000)]
    shown = []
    for request_id in ids:
        candidates = found.candidates
        object.__setattr__(candidates, "request_ids", (request_id,))
        decisions = decided(found)
        shown.append(decisions.creative_row[0])
        row = decisions.creative_row[0]
        assert decisions.propensity[0] == pytest.approx(0.25 if row == 1 else 0.375)
    assert np.mean(np.array(shown) == 1) == pytest.approx(0.25, abs=0.03)


def test_exploration_is_capped_by_ad():
    mine = AdControl(ad_id="hat", max_exploration=0.02)
    decisions = decided(prepared(ads=[mine], max_exploration=0.5), epsilon=0.9)
    assert decisions.list_probabilities[0] == pytest.approx([0.98, 0.01, 0.01])


@pytest.mark.parametrize(
    "said",
    [
        {"creatives": [{"creative_id": "a"}, {"creative_id": "a"}]},
        {"ads": [{"ad_id": "a"}, {"ad_id": "a"}]},
        {"creatives": [{"creative_id": "a", "max_share": 0}]},
        {"creatives": [{"creative_id": "a", "excluded": True}]},
        {
            "creatives": [
                {"creative_id": "a", "from_ts": HOUR_LATER, "until_ts": HOUR_EARLIER}
            ]
        },
        {"ads": [{"ad_id": "a", "max_exploration": 1.5}]},
    ],
)
def test_what_makes_no_sense_is_refused(said):
    with pytest.raises(ValidationError):
        Controls.model_validate(said)


LISTS = st.tuples(st.integers(1, 4), st.integers(1, 6))


@given(shape=LISTS, data=st.data())
def test_caps_keep_probabilities_and_their_bounds(shape, data):
    scores = data.draw(arrays(float, shape, elements=st.floats(-5, 5)))
    mask = data.draw(arrays(bool, shape))
    mask[:, 0] = True
    bounds = data.draw(arrays(float, shape, elements=st.floats(0.01, 1)))
    epsilon = data.draw(st.floats(0, 1))
    before = epsilon_greedy_probabilities(scores, mask, epsilon)

    after = cap_shares(before, bounds, mask)

    assert after.sum(1) == pytest.approx(np.ones(len(after)))
    assert not after[~mask].any()
    widened = np.where(mask, bounds, 0)
    widened /= np.minimum(widened.sum(1, keepdims=True), 1)
    assert (after <= widened + 1e-9).all()
    # Who keeps to the bounds already is left alone.
    free = (before <= widened).all(1)
    np.testing.assert_allclose(after[free], before[free])
    # Padding and the order of a list do not matter.
    turned = cap_shares(before[:, ::-1], bounds[:, ::-1], mask[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(turned, after, atol=1e-9)


@given(shape=LISTS, data=st.data())
def test_capped_exploration_keeps_proportions_among_the_others(shape, data):
    weights = data.draw(arrays(float, shape, elements=st.floats(0.01, 1)))
    before = weights / weights.sum(1, keepdims=True)
    bound = data.draw(arrays(float, shape[0], elements=st.floats(0, 1)))

    after = cap_exploration(before, bound)

    best = before.argmax(1)
    rows = np.arange(len(before))
    assert after.sum(1) == pytest.approx(np.ones(len(after)))
    assert (1 - after[rows, best] <= bound + 1e-12).all()
    assert (after[rows, best] >= before[rows, best] - 1e-12).all()
    others = np.ones(shape, bool)
    others[rows, best] = False
    ratio = np.where(others, after / before, np.nan)
    if shape[1] > 1:
        assert np.nanmax(ratio, 1) == pytest.approx(np.nanmin(ratio, 1), rel=1e-6)


@given(shape=LISTS, shift=st.floats(-20, 20), data=st.data())
def test_a_prior_from_content_follows_the_order_and_keeps_its_strength(
    shape, shift, data
):
    scores = data.draw(arrays(float, shape, elements=st.floats(-4, 4)))
    mask = np.ones(shape, bool)
    alpha, beta = content_prior(scores, mask, (1.0, 19.0))
    assert (alpha > 0).all()
    assert (beta > 0).all()
    assert (alpha + beta).ravel() == pytest.approx(np.full(scores.size, 20.0))
    shifted, _ = content_prior(scores + shift, mask, (1.0, 19.0))
    np.testing.assert_allclose(shifted, alpha, rtol=1e-6)
    order = np.argsort(scores, axis=1)
    in_order = np.take_along_axis(alpha, order, axis=1)
    assert (np.diff(in_order, axis=1) >= -1e-9).all()


def test_a_cap_holds_in_every_order():
    found = prepared(CreativeControl(creative_id="wool", max_share=0.25))
    for policy in ("cacs", "rank_only"):
        told = decided(found, policy=policy).list_probabilities[0]
        assert told == pytest.approx([0.25, 0.375, 0.375])
