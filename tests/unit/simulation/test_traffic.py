"""What a log promises about the market that left it."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cacs_ray.schema import IMPRESSIONS
from cacs_ray.simulation.market import DAY_US, START_US
from cacs_ray.simulation.recipes import RECIPES
from cacs_ray.simulation.traffic import Counts, Part, draw_part, log_parts


def with_recipe(market, changes):
    return dataclasses.replace(market, recipe=market.recipe.override(changes))


def draw_log(market):
    """The whole log in one table, as the writers of parts draw it."""
    seen, tables = Counts.none(market), []
    for parts in log_parts(market.recipe):
        drawn = [draw_part(market, part, seen) for part in parts]
        tables += [table for table, _ in drawn]
        seen = sum((added for _, added in drawn), start=seen)
    return pa.concat_tables(tables), seen


@pytest.fixture(scope="module", params=["uniform", "epsilon_greedy"])
def logged(request, tiny_market):
    market = with_recipe(
        tiny_market,
        {"logging.policy": request.param, "traffic.num_impressions": 40_000},
    )
    return market, *draw_log(market)


def test_the_log_has_the_contracts_columns(logged):
    _, log, _ = logged
    assert log.schema.names == [*IMPRESSIONS.names, "device"]
    assert log.select(IMPRESSIONS.names).schema.equals(IMPRESSIONS)


def test_equal_parts_are_equal_whenever_they_are_drawn(tiny_market):
    part = Part(day=1, index=0, num_impressions=300)
    seen = Counts.none(tiny_market)
    first, _ = draw_part(tiny_market, part, seen)
    draw_part(tiny_market, Part(0, 0, 300), seen)
    assert draw_part(tiny_market, part, seen)[0].equals(first)


def test_parts_of_one_day_differ(tiny_market):
    seen = Counts.none(tiny_market)
    first, second = (
        draw_part(tiny_market, Part(0, index, 300), seen)[0] for index in (0, 1)
    )
    assert not first["request_ts"].equals(second["request_ts"])
    assert not set(first["request_id"].to_pylist()) & set(
        second["request_id"].to_pylist()
    )


def test_parts_add_up_to_the_recipe_and_stay_within_their_size():
    recipe = RECIPES["large"]
    parts = [part for day in log_parts(recipe) for part in day]
    assert sum(part.num_impressions for part in parts) == 50_000_000
    largest = max(part.num_impressions for part in parts)
    assert largest <= recipe.traffic.part_impressions
    assert len({part.file_name for part in parts}) == len(parts)


def test_an_ad_is_shown_once_in_a_request(logged):
    _, log, _ = logged
    pairs = log.group_by(["request_id", "ad_id"]).aggregate([])
    assert len(pairs) == len(log)


def test_slots_of_a_request_are_filled_from_the_best_on(logged):
    _, log, _ = logged
    per_request = log.group_by("request_id").aggregate(
        [("slot", "max"), ("slot", "count_distinct")]
    )
    highest, distinct = per_request["slot_max"], per_request["slot_count_distinct"]
    assert pc.all(pc.equal(pc.add(highest, 1), distinct)).as_py()


def test_only_live_creatives_of_the_ad_are_shown(logged):
    market, log, _ = logged
    creative = market.creative_rows(log["creative_id"])
    ts_us = log["request_ts"].cast(pa.int64()).to_numpy()
    assert (market.creative_ad[creative] == market.ad_rows(log["ad_id"])).all()
    assert (market.live_from_us[creative] <= ts_us).all()
    assert (ts_us < market.live_until_us[creative]).all()


def test_requests_fall_into_the_days_of_the_log(logged):
    _, log, _ = logged
    ts_us = log["request_ts"].cast(pa.int64()).to_numpy()
    days = (ts_us - START_US) // DAY_US
    assert np.unique(days).tolist() == [0, 1]
    assert (np.diff(ts_us) >= 0).all()


def test_the_shown_creative_is_one_of_the_candidates_live_then(logged):
    market, log, _ = logged
    ts_us = log["request_ts"].cast(pa.int64()).to_numpy()
    lists = market.live_lists(market.ad_rows(log["ad_id"]), ts_us)
    named = log["candidate_creative_ids"].to_pylist()[:500]
    for row, names in enumerate(named):
        live = lists[row][lists[row] >= 0]
        assert market.creative_ids.take(pa.array(live)).to_pylist() == names
        assert log["creative_id"][row].as_py() in names


def test_propensities_are_the_true_frequencies(logged):
    """Inverse propensities of one creative sum to how often it could be chosen."""
    market, log, _ = logged
    ts_us = log["request_ts"].cast(pa.int64()).to_numpy()
    lists = market.live_lists(market.ad_rows(log["ad_id"]), ts_us)
    could = np.bincount(lists[lists >= 0], minlength=len(market.creative_ad))
    creative = market.creative_rows(log["creative_id"])
    inverse = 1 / log["propensity"].to_numpy()
    estimate = np.bincount(creative, inverse, minlength=len(could))
    deviation = np.sqrt(np.bincount(creative, inverse**2, minlength=len(could)))
    busy = np.bincount(creative, minlength=len(could)) > 50
    assert busy.sum() > 50
    z = (estimate - could)[busy] / deviation[busy]
    assert abs(z.mean()) < 0.3
    assert np.abs(z).max() < 4.5


def test_epsilon_greedy_gives_the_best_what_exploring_leaves(tiny_market):
    market = with_recipe(
        tiny_market,
        {"logging.policy": "epsilon_greedy", "logging.epsilon": 0.3},
    )
    log, _ = draw_part(market, Part(0, 0, 3000), Counts.none(market))
    counts = pc.list_value_length(log["candidate_creative_ids"]).to_numpy()
    explored = 0.3 / counts
    propensity = log["propensity"].to_numpy()
    is_best = np.isclose(propensity, explored + 0.7)
    assert (is_best | np.isclose(propensity, explored)).all()
    # Before the first click all estimates are equal: the first creative is best.
    first = [names[0] for names in log["candidate_creative_ids"].to_pylist()]
    assert is_best.tolist() == pc.equal(log["creative_id"], pa.array(first)).to_pylist()


def test_epsilon_greedy_prefers_what_was_clicked_before(tiny_market):
    market = with_recipe(tiny_market, {"logging.policy": "epsilon_greedy"})
    last = market.ad_first[1:] - 1
    clicks = np.zeros(len(market.creative_ad), np.int64)
    clicks[last] = 50
    seen = Counts(clicks, np.full(len(clicks), 100))
    log, _ = draw_part(market, Part(1, 0, 3000), seen)
    creative = market.creative_rows(log["creative_id"])
    greedy = log["propensity"].to_numpy() > 0.8
    names = log["candidate_creative_ids"].to_pylist()
    rows = [market.creative_rows(n)[-1] for n in names]
    liked_is_live = np.isin(rows, last)
    chosen = creative[greedy & liked_is_live]
    assert len(chosen) > 100
    assert np.isin(chosen, last).all()


def test_clicks_come_as_often_as_the_truth_says(logged):
    market, log, _ = logged
    p = market.click_probability(
        log["user_id"],
        log["ad_id"],
        log["creative_id"],
        log["slot"].to_numpy(),
        log["device"],
    )
    clicks = log["is_clicked"].to_numpy()
    for group in (p < np.median(p), p >= np.median(p)):
        expected, deviation = p[group].sum(), np.sqrt((p * (1 - p))[group].sum())
        assert abs(clicks[group].sum() - expected) < 4 * deviation


def test_average_ctr_is_the_recipes(tiny_market):
    log, _ = draw_log(with_recipe(tiny_market, {"traffic.num_impressions": 40_000}))
    wanted = tiny_market.recipe.effects.target_ctr
    assert log["is_clicked"].to_numpy().mean() == pytest.approx(wanted, rel=0.2)


def test_counts_are_those_of_the_log(logged):
    market, log, seen = logged
    creative = market.creative_rows(log["creative_id"])
    clicked = creative[log["is_clicked"].to_numpy()]
    size = len(market.creative_ad)
    assert (seen.impressions == np.bincount(creative, minlength=size)).all()
    assert (seen.clicks == np.bincount(clicked, minlength=size)).all()


def test_heavier_users_ask_more(logged):
    market, log, _ = logged
    requests = log.group_by("request_id").aggregate([("user_id", "min")])
    rows = market.user_rows(requests["user_id_min"])
    known = np.bincount(rows, minlength=len(market.user_weight))[1:]
    weight = market.user_weight[1:]
    assert np.corrcoef(known, weight)[0, 1] > 0.98
    assert known[weight == 0].sum() == 0


def test_candidates_are_left_null_when_the_recipe_says_so(tiny_market):
    market = with_recipe(tiny_market, {"logging.writes_candidates": False})
    log, _ = draw_part(market, Part(0, 0, 300), Counts.none(market))
    assert log["candidate_creative_ids"].null_count == len(log)
