"""What a drawn market promises."""

import dataclasses

import numpy as np
import pytest

from cacs_ray.simulation.draw import base_for_ctr, draw_market, zipf_weights
from cacs_ray.simulation.market import ALWAYS_US, DAY_US, NEVER_US, START_US, Market


def test_equal_seeds_draw_equal_markets_and_others_do_not(tiny_recipe, tiny_market):
    again = draw_market(tiny_recipe, seed=3)
    other = draw_market(tiny_recipe, seed=4)
    for field in dataclasses.fields(Market):
        value = getattr(tiny_market, field.name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(again, field.name))
    assert again.requests.equals(tiny_market.requests)
    assert not np.array_equal(tiny_market.user_taste, other.user_taste)


def test_traffic_falls_as_a_power_of_rank():
    shares = np.sort(zipf_weights(4, 1.0, np.random.default_rng(0)))[::-1]
    total = 1 + 1 / 2 + 1 / 3 + 1 / 4
    assert shares == pytest.approx(np.array([1, 1 / 2, 1 / 3, 1 / 4]) / total)


def test_the_base_gives_the_wanted_ctr():
    logits = np.array([-1.0, 0.0, 2.0])
    p = 1 / (1 + np.exp(-(logits + base_for_ctr(logits, 0.05))))
    assert p.mean() == pytest.approx(0.05)


def test_the_first_creative_of_an_ad_outlives_its_siblings(tiny_market):
    first = tiny_market.ad_first[:-1]
    born_first = tiny_market.live_from_us[first][tiny_market.creative_ad]
    assert (tiny_market.live_until_us[first] == NEVER_US).all()
    assert (tiny_market.live_from_us >= born_first).all()


def test_creatives_are_born_in_the_log_and_on_the_day_after(tiny_market):
    born = tiny_market.live_from_us[tiny_market.live_from_us != ALWAYS_US]
    days = np.unique((born - START_US) // DAY_US)
    assert days.tolist() == [0, 1, 2]  # two days of log and the next


def test_an_end_comes_a_day_after_its_birth_at_least(tiny_market):
    ended = tiny_market.live_until_us != NEVER_US
    assert ended.any()
    born = np.maximum(tiny_market.live_from_us[ended], START_US)
    assert (tiny_market.live_until_us[ended] >= born + DAY_US).all()


def test_every_ad_has_one_to_the_largest_number_of_creatives(tiny_market):
    sizes = np.diff(tiny_market.ad_first)
    largest = tiny_market.recipe.population.max_creatives
    assert set(sizes) <= set(range(1, largest + 1))
    assert len(tiny_market.creative_style) == sizes.sum()


def test_appeal_is_linear_in_style(tiny_market):
    style, appeal = tiny_market.creative_style, tiny_market.creative_appeal
    fitted, *_ = np.linalg.lstsq(style, appeal, rcond=None)
    assert style @ fitted == pytest.approx(appeal, abs=1e-4)
    wanted = tiny_market.recipe.effects.appeal
    assert np.linalg.norm(fitted) == pytest.approx(wanted, rel=1e-4)


def test_nobody_asks_during_the_log_but_its_own_users(tiny_recipe, tiny_market):
    weight, known = tiny_market.user_weight, tiny_recipe.population.num_users
    assert len(weight) == 1 + known + 1  # nobody, the log's users, 2 % of new ones
    assert weight[0] == 0
    assert (weight[1 : 1 + known] > 0).all()
    assert weight[1 + known] == 0


def test_next_day_has_known_new_and_unknown_users(tiny_recipe):
    recipe = tiny_recipe.override({"traffic.num_next_requests": 1000})
    market = draw_market(recipe, seed=0)
    users = market.requests["user_id"]
    rows = market.user_rows(users)
    assert users.null_count > 0
    assert (rows > recipe.population.num_users).any()
    assert ((rows > 0) & (rows <= recipe.population.num_users)).mean() > 0.8
