"""What the true value of decisions promises, on two ads a person can hold."""

import dataclasses
from math import exp, log

import numpy as np
import pyarrow as pa
import pytest

from cacs_ray.errors import InputError
from cacs_ray.schema import TIMESTAMP
from cacs_ray.simulation.market import ALWAYS_US, NEVER_US, START_US
from cacs_ray.simulation.value import (
    normalised_gain,
    resampled_sums,
    true_value,
)

HAT_WOOL, HAT_FELT, SHOE = "c0000000", "c0000001", "c0000002"


@pytest.fixture
def market(tiny_market):
    """A hat with CTR .1 (wool) or .2 (felt) and a shoe with CTR .5; nobody's taste."""
    logits = [log(0.1 / 0.9), log(0.2 / 0.8), log(0.5 / 0.5)]
    return dataclasses.replace(
        tiny_market,
        recipe=tiny_market.recipe.override({"effects.slot": 0.5}),
        base_logit=0.0,
        ad_category=np.zeros(2, np.int16),
        ad_quality=np.zeros(2, np.float32),
        ad_first=np.array([0, 2, 3], np.int32),
        creative_style=np.zeros((3, 6), np.float32),
        creative_appeal=np.array(logits),
        creative_residual=np.zeros(3),
        live_from_us=np.full(3, ALWAYS_US),
        live_until_us=np.full(3, NEVER_US),
    )


def decisions(*rows):
    """Rows of (request, ad, creative, slot, price)."""
    requests, ads, creatives, slots, prices = zip(*rows, strict=True)
    return pa.table(
        {
            "request_id": pa.array(requests),
            "user_id": pa.nulls(len(rows), pa.string()),
            "ad_id": pa.array(ads),
            "creative_id": pa.array(creatives),
            "slot": pa.array(slots, pa.int32()),
            "price_micros": pa.array(prices, pa.int64()),
        }
    )


def impressions(*rows):
    """Rows of (request, ad, candidates)."""
    requests, ads, lists = zip(*rows, strict=True)
    return pa.table(
        {
            "request_id": pa.array(requests),
            "request_ts": pa.array([START_US] * len(rows), TIMESTAMP),
            "user_id": pa.nulls(len(rows), pa.string()),
            "ad_id": pa.array(ads),
            "slot": pa.array([0] * len(rows), pa.int32()),
            "candidate_creative_ids": pa.array(lists, pa.list_(pa.string())),
        }
    )


def test_value_is_ctr_and_revenue_of_what_was_shown(market):
    value = true_value(
        market,
        decisions(
            ("r1", "a000000", HAT_FELT, 0, 300_000),
            ("r2", "a000001", SHOE, 0, 100_000),
            ("r2", "a000000", HAT_WOOL, None, None),
        ),
    )
    assert value["impressions"] == 2
    assert value["true_ctr"]["value"] == pytest.approx((0.2 + 0.5) / 2)
    revenue = 0.2 * 300_000 + 0.5 * 100_000
    assert value["rpm_micros"]["value"] == pytest.approx(1000 * revenue / 2)


def test_a_lower_slot_counts_with_its_lower_ctr(market):
    value = true_value(
        market,
        decisions(
            ("r1", "a000001", SHOE, 0, 1),
            ("r1", "a000000", HAT_FELT, 1, 1),
        ),
    )
    second = 1 / (1 + exp(-(log(0.2 / 0.8) - 0.5)))  # slot 1 loses the slot effect
    assert value["true_ctr"]["value"] == pytest.approx((0.5 + second) / 2)


def test_per_request_sums_keep_requests_that_show_nothing(market):
    value = true_value(
        market,
        decisions(
            ("empty", "a000000", HAT_WOOL, None, None),
            ("r1", "a000001", SHOE, 0, 10),
            ("r1", "a000000", HAT_FELT, 0, 20),
        ),
    )
    per_request = value["per_request"]
    assert per_request["request_ids"].to_pylist() == ["empty", "r1"]
    assert per_request["shown"].tolist() == [0, 2]
    assert per_request["expected_clicks"] == pytest.approx([0, 0.7])
    assert per_request["revenue_micros"] == pytest.approx([0, 0.5 * 10 + 0.2 * 20])


def test_equal_requests_leave_no_uncertainty(market):
    rows = [(f"r{i}", "a000001", SHOE, 0, 10) for i in range(20)]
    ctr = true_value(market, decisions(*rows))["true_ctr"]
    assert (ctr["low"], ctr["high"]) == pytest.approx((0.5, 0.5))


def test_the_interval_is_about_two_standard_errors_wide(market):
    rows = [(f"s{i}", "a000001", SHOE, 0, 1) for i in range(200)]
    rows += [(f"h{i}", "a000000", HAT_WOOL, 0, 1) for i in range(200)]
    ctr = true_value(market, decisions(*rows))["true_ctr"]
    error = 0.2 / np.sqrt(400)  # the CTRs .1 and .5 deviate by .2
    assert ctr["high"] - ctr["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert ctr["low"] < 0.3 < ctr["high"]


def test_nothing_shown_has_no_value(market):
    value = true_value(market, decisions(("r1", "a000001", SHOE, None, None)))
    assert value["impressions"] == 0
    assert np.isnan(value["true_ctr"]["value"])


def test_no_decisions_have_no_value(market):
    one = decisions(("r1", "a000001", SHOE, 0, 1))
    assert np.isnan(true_value(market, one.slice(0, 0))["rpm_micros"]["value"])


def test_a_shown_row_without_a_price_is_refused(market):
    with pytest.raises(InputError, match="missing_price"):
        true_value(market, decisions(("r1", "a000001", SHOE, 0, None)))


def test_gain_is_what_was_won_of_what_could_be_won(market):
    # Hat: random .15, oracle .2. Twice right, once wrong: (.05 + .05 - .05) / .15.
    rows = [(f"r{i}", "a000000", [HAT_WOOL, HAT_FELT]) for i in range(3)]
    gain = normalised_gain(market, impressions(*rows), [HAT_FELT, HAT_FELT, HAT_WOOL])
    assert gain["all"]["value"] == pytest.approx(1 / 3)
    assert gain["random_ctr"] == pytest.approx([0.15] * 3)
    assert gain["oracle_ctr"] == pytest.approx([0.2] * 3)
    assert gain["chosen_ctr"] == pytest.approx([0.2, 0.2, 0.1])


def test_gain_is_split_by_the_rows_that_are_rare(market):
    rows = [(f"r{i}", "a000000", [HAT_WOOL, HAT_FELT]) for i in range(2)]
    gain = normalised_gain(
        market,
        impressions(*rows),
        [HAT_FELT, HAT_WOOL],
        is_rare=np.array([True, False]),
    )
    assert gain["rare"]["value"] == pytest.approx(1)
    assert gain["frequent"]["value"] == pytest.approx(-1)


def test_a_null_list_means_all_that_live_then(market):
    gain = normalised_gain(
        market,
        impressions(("r1", "a000000", None), ("r2", "a000000", [HAT_WOOL])),
        [HAT_FELT, HAT_WOOL],
    )
    assert gain["random_ctr"] == pytest.approx([0.15, 0.1])


def test_a_list_of_one_leaves_nothing_to_win(market):
    gain = normalised_gain(market, impressions(("r1", "a000001", [SHOE])), [SHOE])
    assert np.isnan(gain["all"]["value"])


def test_a_choice_outside_its_list_is_refused(market):
    with pytest.raises(InputError, match="creative_not_candidate"):
        normalised_gain(market, impressions(("r1", "a000000", [HAT_WOOL])), [HAT_FELT])


def test_many_requests_are_resampled_in_bags_with_an_honest_width():
    clicked = np.arange(10_000) % 2
    sums = np.stack([np.ones(10_000), clicked], 1)
    boots = resampled_sums(sums, num_resamples=2_000, seed=0)
    ratios = boots[:, 1] / boots[:, 0]
    assert ratios.mean() == pytest.approx(0.5, abs=0.001)
    assert ratios.std() == pytest.approx(0.5 / np.sqrt(10_000), rel=0.1)
