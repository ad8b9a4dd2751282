"""What a day is worth and what it found, on two ads a person can hold."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from cacs_ray.live.figures import (
    add_up,
    day_figures,
    day_rates,
    found_creatives,
    is_new,
    mean_ctr,
)
from cacs_ray.schema import TIMESTAMP
from tests.unit.live.market import BOOT, CTR, FELT, SHOE, SILK, WOOL, day_us, two_ads

HATS, FEET = (WOOL, FELT, SILK), (SHOE, BOOT)


@pytest.fixture(scope="module")
def market():
    return two_ads()


def decided(*rows, day=3):
    """One request of a hat and something for feet, with (creative, slot) each."""
    creatives, slots = zip(*rows, strict=True)
    is_hat = [c in HATS for c in creatives]
    return pa.table(
        {
            "request_id": [f"r{n // 2}" for n in range(len(rows))],
            "request_ts": pa.array([day_us(day) + 1] * len(rows), TIMESTAMP),
            "user_id": pa.nulls(len(rows), pa.string()),
            "ad_id": ["a000000" if hat else "a000001" for hat in is_hat],
            "creative_id": pa.array(creatives),
            "candidate_creative_ids": [list(HATS if hat else FEET) for hat in is_hat],
            "bid_micros": pa.array([1_000_000 if h else 2_000_000 for h in is_hat]),
            "slot": pa.array(slots, pa.int32()),
            "price_micros": pa.array(
                [None if s is None else 500_000 for s in slots], pa.int64()
            ),
            "device": pa.nulls(len(rows), pa.string()),
        }
    )


def test_clicks_revenue_and_value_are_those_of_what_was_shown(market):
    figures = day_figures(
        market, 3, decided((FELT, 1), (SHOE, 0), (SILK, 0), (BOOT, None))
    )
    assert figures["impressions"] == 3
    assert figures["clicks"] == pytest.approx(0.2 + 0.5 + 0.4)
    assert figures["revenue"] == pytest.approx(0.5 * (0.2 + 0.5 + 0.4))
    assert figures["value"] == pytest.approx(0.2 + 2 * 0.5 + 0.4)
    assert figures["new_impressions"] == 1


def test_the_choice_counts_in_every_ad_shown_or_not(market):
    figures = day_figures(market, 3, decided((FELT, 0), (BOOT, None)))
    mean_hat, mean_feet = CTR[:3].mean(), CTR[3:].mean()
    assert figures["won"] == pytest.approx(0.2 - mean_hat + 0.3 - mean_feet)
    assert figures["winnable"] == pytest.approx(0.4 - mean_hat + 0.5 - mean_feet)
    # Silk is new and the best hat; the shoe is the best of its own and old.
    assert figures["won_new"] == pytest.approx(0.2 - mean_hat)
    assert figures["winnable_new"] == pytest.approx(0.4 - mean_hat)


def test_what_is_born_after_the_log_is_new(market):
    assert is_new(market).tolist() == [False, False, True, False, True]


def test_without_tastes_the_mean_over_users_is_the_ctr(market):
    assert mean_ctr(market) == pytest.approx(CTR, rel=1e-5)


def test_a_new_best_creative_is_found_when_it_gets_the_most(market):
    # 6 of 10 hats are silk; what the boot gets does not matter: the shoe is best.
    most = np.array([0, 0, 1, 1, 2, 2, 2, 2, 2, 2] + [3, 4, 4] * 9)
    found, ages = found_creatives(market, 4, most)
    assert found.tolist() == [True]
    assert ages.tolist() == [1]
    few = np.array([0, 0, 0, 0, 0, 1, 2, 2, 2, 2])
    assert found_creatives(market, 4, few)[0].tolist() == [False]


def test_a_creative_counts_from_its_first_whole_day(market):
    assert len(found_creatives(market, 2, np.full(20, 2))[0]) == 0
    assert found_creatives(market, 3, np.full(20, 2))[1].tolist() == [0]


def test_ads_hardly_shown_tell_nothing(market):
    assert len(found_creatives(market, 4, np.full(9, 2))[0]) == 0


def test_an_old_best_creative_needs_no_finding(market):
    always = dataclasses.replace(
        market, live_from_us=np.full(5, market.live_from_us[0])
    )
    assert len(found_creatives(always, 4, np.full(20, 2))[0]) == 0


def test_regret_is_what_the_oracle_would_have_had(market):
    own = day_figures(market, 3, decided((FELT, 1), (SHOE, 0)))
    best = day_figures(market, 3, decided((SILK, 1), (SHOE, 0)))
    rates = day_rates(own, best)
    assert rates["regret"] == pytest.approx(1 - 0.7 / 0.9)
    assert rates["regret_value"] == pytest.approx(1 - 1.2 / 1.4)
    assert rates["regret_clicks"] == pytest.approx(0.2)
    assert rates["true_ctr"] == pytest.approx(0.35)
    assert rates["rpm"] == pytest.approx(1000 * 0.5 * 0.35)
    assert day_rates(best, best)["gain"] == pytest.approx(1.0)


def test_a_day_without_new_creatives_says_nothing_of_finding(market):
    own = day_figures(market, 3, decided((FELT, 1), (SHOE, 0)))
    assert "found" not in day_rates(own, own)


def test_days_add_up_and_what_one_lacks_is_zero():
    days = [{"clicks": 1.0, "found/age 0": 1.0}, {"clicks": 2.0}]
    assert add_up(days) == {"clicks": 3.0, "found/age 0": 1.0}
