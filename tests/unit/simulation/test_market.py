"""What the truth of a market promises."""

import dataclasses
from math import exp

import numpy as np
import pytest

from cacs_ray.errors import InputError
from cacs_ray.simulation.market import ALWAYS_US, NEVER_US, START_US, Market


def sigmoid(x):
    return 1 / (1 + exp(-x))


def first_creative(market, ad=0):
    row = int(market.ad_first[ad])
    return market.ad_ids[ad].as_py(), market.creative_ids[row].as_py(), row


def test_the_probability_is_the_formula_term_by_term(tiny_market):
    market = tiny_market
    ad_id, creative_id, row = first_creative(market)
    user, effects = 7, market.recipe.effects
    place = np.nonzero(market.user_topics[user] == market.ad_category[0])[0]
    affinity = [1.0, 0.6, 0.3][place[0]] * effects.topic if len(place) else 0.0
    taste = float(market.user_taste[user] @ market.creative_style[row])
    logit = (
        market.base_logit
        + market.user_bias[user]
        + affinity
        + market.ad_quality[0]
        + effects.personal * taste / np.sqrt(market.recipe.population.style_size)
        + market.creative_appeal[row]
        + market.creative_residual[row]
        - effects.slot * 2  # slot 3 loses log2(1 + 3) times as much as slot 1
        - effects.device
    )

    p = market.click_probability(
        [market.user_ids[user].as_py()], [ad_id], [creative_id], [3], ["desktop"]
    )

    assert p[0] == pytest.approx(sigmoid(logit), rel=1e-5)


def test_an_ad_of_the_users_first_topic_gains_the_whole_topic_effect(tiny_market):
    topics = np.array([[2, 0, 1]], np.int16)
    category = np.array([2, 0, 1, 3], np.int16)
    market = dataclasses.replace(
        tiny_market,
        user_topics=topics,
        user_bias=np.zeros(1, np.float32),
        ad_category=category,
        ad_quality=np.zeros(4, np.float32),
    )
    logits = market.ad_logits(np.zeros(4, int), np.arange(4))
    topic = market.recipe.effects.topic
    assert logits == pytest.approx([topic, 0.6 * topic, 0.3 * topic, 0])


def test_a_user_nobody_knows_has_no_taste(tiny_market):
    ad_id, creative_id, _ = first_creative(tiny_market)
    p = tiny_market.click_probability(
        [None, "somebody-else"], [ad_id] * 2, [creative_id] * 2, [0, 0]
    )
    assert p[0] == p[1]
    assert not tiny_market.user_taste[0].any()
    assert tiny_market.user_topics[0].tolist() == [-1, -1, -1]


def test_a_lower_slot_is_clicked_less(tiny_market):
    ad_id, creative_id, _ = first_creative(tiny_market)
    p = tiny_market.click_probability(
        [None] * 3, [ad_id] * 3, [creative_id] * 3, [0, 1, 2]
    )
    assert p[0] > p[1] > p[2] > 0


def test_a_creative_of_another_ad_is_refused(tiny_market):
    ad_id, _, _ = first_creative(tiny_market, ad=0)
    _, other, _ = first_creative(tiny_market, ad=1)
    with pytest.raises(InputError, match="creative_of_other_ad"):
        tiny_market.click_probability([None], [ad_id], [other], [0])


@pytest.mark.parametrize(
    ("ad_id", "creative_id", "slot", "rule"),
    [
        ("no-ad", "c0000000", 0, "unknown_ad"),
        ("a000000", "no-creative", 0, "unknown_creative"),
        ("a000000", "c0000000", -1, "bad_slot"),
    ],
)
def test_what_is_not_of_this_market_is_refused(
    tiny_market, ad_id, creative_id, slot, rule
):
    with pytest.raises(InputError, match=rule):
        tiny_market.click_probability([None], [ad_id], [creative_id], [slot])


def test_a_creative_lives_from_its_birth_to_just_before_its_end(tiny_market):
    market = dataclasses.replace(
        tiny_market,
        ad_category=np.zeros(1, np.int16),
        ad_first=np.array([0, 3], np.int32),
        live_from_us=np.array([ALWAYS_US, START_US + 10, ALWAYS_US]),
        live_until_us=np.array([NEVER_US, NEVER_US, START_US + 10]),
    )
    moments = START_US + np.array([9, 10])
    lists = market.live_lists(np.zeros(2, int), moments)
    assert lists.tolist() == [[0, 2, -1], [0, 1, -1]]


def test_a_saved_market_comes_back_whole(tiny_market, tmp_path):
    tiny_market.save(tmp_path)
    again = Market.load(tmp_path)
    for field in dataclasses.fields(Market):
        kept, read = getattr(tiny_market, field.name), getattr(again, field.name)
        if isinstance(kept, np.ndarray):
            assert kept.dtype == read.dtype
            np.testing.assert_array_equal(kept, read)
        else:
            assert kept == read


def test_a_torn_truth_is_named(tiny_market, tmp_path):
    tiny_market.save(tmp_path)
    file = tmp_path / "market.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=str(tmp_path)):
        Market.load(tmp_path)
