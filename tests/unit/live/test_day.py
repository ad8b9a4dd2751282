"""What is known on a day, who clicks, and what an oracle decides."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cacs_ray.decision.candidates import Candidates
from cacs_ray.live.day import TruthScorers, draw_clicks, known_tables, requests_of
from cacs_ray.schema import CLICKS
from cacs_ray.simulation.draw import draw_market
from tests.unit.live.market import BOOT, FELT, RECIPE, SHOE, SILK, WOOL, day_us, two_ads


@pytest.fixture(scope="module")
def market():
    return two_ads()


def shown(market, day, creatives):
    """Requests of a day, each ad shown with the creative that is named for it."""
    requests = requests_of(market, day)
    hats = pc.equal(requests["ad_id"], "a000000")
    of_ad = pc.if_else(hats, creatives[0], creatives[1])
    slots = pa.array(np.zeros(len(requests), np.int32))
    return requests.append_column("creative_id", of_ad).append_column("slot", slots)


def test_nobody_knows_what_is_born_tomorrow(market):
    def ids(day):
        return known_tables(market, day)["creatives"]["creative_id"].to_pylist()

    assert ids(1) == [WOOL, FELT, SHOE]
    assert ids(2) == [WOOL, FELT, SILK, SHOE, BOOT]


def test_a_new_ad_is_unknown_before_its_day(market):
    late = market.live_from_us.copy()
    late[3:] = day_us(3)
    born = dataclasses.replace(market, live_from_us=late)
    assert known_tables(born, 2)["ads"]["ad_id"].to_pylist() == ["a000000"]
    assert len(known_tables(born, 3)["ads"]) == 2


def test_content_known_early_is_the_content_known_late(market):
    before, after = (known_tables(market, day)["creatives"] for day in (1, 2))
    old = after.filter(pc.is_in(after["creative_id"], before["creative_id"]))
    assert old.equals(before)


def test_each_day_has_requests_of_its_own(market):
    days = [requests_of(market, day) for day in (2, 3, 4)]
    for day, requests in zip((2, 3, 4), days, strict=True):
        ts = requests["request_ts"].cast(pa.int64()).to_numpy()
        assert ((ts >= day_us(day)) & (ts < day_us(day + 1))).all()
    ids = [set(r["request_id"].to_pylist()) for r in days]
    assert not ids[0] & ids[1]
    assert days[0]["user_id"].to_pylist() != days[1]["user_id"].to_pylist()


def test_the_first_later_day_is_the_one_that_is_kept_with_the_truth():
    market = draw_market(RECIPE, seed=5)
    assert requests_of(market, 2).equals(market.requests)


def test_clicks_come_with_the_true_ctr(market):
    busy = dataclasses.replace(
        market, recipe=market.recipe.override({"traffic.num_next_requests": 4_000})
    )
    table = shown(busy, 3, (SILK, BOOT))
    clicks = draw_clicks(busy, 3, table)
    assert clicks.schema == CLICKS
    for ad, ctr in (("a000000", 0.4), ("a000001", 0.3)):
        of_ad = pc.sum(pc.equal(table["ad_id"], ad)).as_py()
        clicked = pc.sum(pc.equal(clicks["ad_id"], ad)).as_py()
        assert clicked / of_ad == pytest.approx(ctr, abs=4 * np.sqrt(0.25 / of_ad))


def test_what_was_not_shown_is_not_clicked(market):
    table = shown(market, 3, (SILK, BOOT))
    slots = pa.nulls(len(table), pa.int32())
    hidden = table.set_column(table.column_names.index("slot"), "slot", slots)
    assert draw_clicks(market, 3, hidden).num_rows == 0


def test_two_loops_that_show_the_same_are_clicked_alike(market):
    """Better creatives gain clicks and lose none: the chances are the same."""
    keys = [
        {tuple(row.values()) for row in draw_clicks(market, 3, table).to_pylist()}
        for table in (shown(market, 3, (WOOL, BOOT)), shown(market, 3, (SILK, BOOT)))
    ]
    assert keys[0] < keys[1]


def test_clicks_come_after_their_request_and_within_the_window(market):
    table = shown(market, 3, (SILK, SHOE))
    joined = draw_clicks(market, 3, table).join(
        table.select(["request_id", "ad_id", "request_ts"]), ["request_id", "ad_id"]
    )
    delay = pc.subtract(
        joined["click_ts"].cast(pa.int64()), joined["request_ts"].cast(pa.int64())
    )
    assert 0 <= pc.min(delay).as_py() <= pc.max(delay).as_py() <= 600_000_000


def test_the_oracle_scores_creatives_by_the_truth(market):
    requests = requests_of(market, 3)
    size = len(requests)
    catalogue = SimpleNamespace(creative_ids=("", SHOE, SILK, WOOL, FELT, BOOT))
    scorers = TruthScorers(SimpleNamespace(catalogue=catalogue), None, market, requests)
    is_hat = pc.equal(requests["ad_id"], "a000000").to_numpy()
    lists = np.where(is_hat[:, None], [[3, 4, 2]], [[1, 5, 0]]).astype(np.int32)
    candidates = Candidates(
        request_ids=(),
        request_index=np.zeros(size, np.int32),
        ad_ids=tuple(requests["ad_id"].to_pylist()),
        bid_micros=np.ones(size, np.int64),
        creative_lists=lists,
        pinned=np.zeros(size, np.int32),
    )
    scores = run(scorers.selector_scores(candidates))
    best = np.where(lists > 0, scores, -np.inf).argmax(1)
    assert (lists[np.arange(size), best] == np.where(is_hat, 2, 1)).all()
    pctr = run(scorers.pctr(candidates, np.where(is_hat, 2, 1)))
    assert pctr == pytest.approx(np.where(is_hat, 0.4, 0.5), rel=1e-5)


def run(answer):
    """What an answer is that waits for nothing."""
    try:
        answer.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")
