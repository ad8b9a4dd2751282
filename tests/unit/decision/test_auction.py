"""What the auction promises, on examples that fit in a head."""

import numpy as np
import pytest

from cacs_ray.decision.auction import allocate_slots


def settle(pctr, bids, *, requests=None, slots=2, reserve=1):
    requests = np.zeros(len(bids), np.int32) if requests is None else requests
    return allocate_slots(
        np.asarray(requests, np.int32),
        np.asarray(pctr, np.float64),
        np.asarray(bids, np.int64),
        num_slots=slots,
        reserve_micros=reserve,
    )


def test_a_cheap_click_that_comes_often_beats_a_dear_one_that_is_rare():
    # eCPM: 1000 x .05 x 100 = 5000, 1000 x .01 x 900 = 9000, 1000 x .02 x 100 = 2000
    settled = settle([0.05, 0.01, 0.02], [100, 900, 100])
    assert settled.ecpm_micros == pytest.approx([5000, 9000, 2000])
    assert settled.slot.tolist() == [1, 0, -1]
    # 5000 / (1000 x .01) = 500; 2000 / (1000 x .05) = 40
    assert settled.price_micros.tolist() == [40, 500, 0]


def test_without_a_next_ad_the_reserve_is_paid():
    assert settle([0.5], [100], reserve=30).price_micros.tolist() == [30]
    assert settle([0.5], [100]).price_micros.tolist() == [1]


def test_a_price_is_rounded_up_to_a_whole_micro():
    # .01 x 100 / .03 = 33.3
    assert settle([0.03, 0.01], [100, 100], slots=1).price_micros[0] == 34


def test_no_price_is_above_its_bid_where_floats_end():
    # 1000 x .126 x bid / (1000 x .126) is .1 above this bid.
    huge = 927_883_007_537_188
    settled = settle([0.126, 0.126], [huge, huge], slots=1)
    assert settled.price_micros[0] == huge


def test_equal_ads_pay_their_bid_and_keep_their_order():
    settled = settle([0.07, 0.07, 0.07], [30, 30, 30])
    assert settled.slot.tolist() == [0, 1, -1]
    assert settled.price_micros.tolist() == [30, 30, 0]


def test_an_ad_below_the_reserve_takes_no_part_and_sets_no_price():
    settled = settle([0.9, 0.1], [10, 50], reserve=20)
    assert settled.slot.tolist() == [-1, 0]
    assert settled.price_micros.tolist() == [0, 20]


def test_an_ad_that_is_never_clicked_can_still_fill_a_slot():
    settled = settle([0.0, 0.0], [10, 10])
    assert settled.slot.tolist() == [0, 1]
    assert settled.price_micros.tolist() == [1, 1]


def test_requests_are_settled_apart():
    together = settle([0.1, 0.2, 0.3], [10, 20, 30], requests=[0, 0, 1])
    first, second = settle([0.1, 0.2], [10, 20]), settle([0.3], [30])
    assert together.slot.tolist() == [*first.slot, *second.slot]
    assert together.price_micros.tolist() == [
        *first.price_micros,
        *second.price_micros,
    ]


def test_no_candidates_no_winners():
    assert settle([], []).slot.shape == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_no_winner_pays_above_its_bid_or_below_the_reserve(seed):
    rng = np.random.default_rng(seed)
    pctr, bids = rng.beta(1, 30, 300), rng.integers(1, 10**6, 300)
    requests = np.sort(rng.integers(0, 20, 300))
    settled = settle(pctr, bids, requests=requests, slots=4, reserve=1000)
    won = settled.slot >= 0
    assert won.sum() == 4 * len(np.unique(requests))
    assert (settled.price_micros[won] <= bids[won]).all()
    assert (settled.price_micros[won] >= 1000).all()
    assert (settled.price_micros[~won] == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_winner_keeps_its_place_at_the_price_it_pays(seed):
    rng = np.random.default_rng(seed)
    pctr, bids = rng.uniform(0.01, 0.5, 6), rng.integers(100, 10**6, 6)
    settled = settle(pctr, bids, slots=6)
    order = np.argsort(settled.slot)
    paid = 1000 * pctr * settled.price_micros
    # At one micro of rounding its value still covers the next ad's.
    assert (paid[order][:-1] >= settled.ecpm_micros[order][1:] - 1e-6).all()
