"""What decide() promises, for every policy and whoever answers the scores."""

import asyncio
import dataclasses

import numpy as np
import pytest

from cacs_ray.decision.candidates import Candidates
from cacs_ray.decision.cascade import DecisionSettings, decide
from cacs_ray.errors import InputError
from cacs_ray.schema import POLICIES

GREEDY = ("cacs", "post_rank", "parallel", "popular", "teacher")

HAT_AND_SHOE = Candidates(
    request_ids=("monday",),
    request_index=np.array([0, 0], np.int32),
    ad_ids=("hat", "shoe"),
    bid_micros=np.array([900, 100]),
    creative_lists=np.array([[1, 2, 0], [3, 4, 5]], np.int32),
    pinned=np.array([0, 0], np.int32),
)


class FakeScorers:
    """Scores of five creatives; the student likes 2 and 5, the teacher 1 and 4."""

    student = np.array([np.nan, 0.0, 1.0, 0.0, 0.5, 2.0])
    teacher = np.array([np.nan, 3.0, 1.0, 0.0, 9.0, 2.0])
    ctr = np.array([0.02, 0.01, 0.02, 0.03, 0.04, 0.05])
    clicks = np.array([0.0, 1.0, 2.0, 9.0, 0.0, 0.0])

    def __init__(self, **broken):
        self.broken = broken
        self.asked = []

    def _answer(self, name, values):
        self.asked.append(name)
        return self.broken.get(name, lambda v: v)(values)

    async def selector_scores(self, candidates):
        return self._answer("selector", self.student[candidates.creative_lists])

    async def teacher_scores(self, candidates):
        return self._answer("teacher", self.teacher[candidates.creative_lists])

    async def pctr(self, candidates, creative_row):
        return self._answer("ranker", self.ctr[creative_row])

    async def counts(self, candidates):
        clicks = self._answer("counts", self.clicks[candidates.creative_lists])
        return clicks, np.full(candidates.creative_lists.shape, 10.0)

    def prior(self):
        return 1.0, 9.0


def run(candidates=HAT_AND_SHOE, scorers=None, **settings):
    scorers = scorers or FakeScorers()
    return asyncio.run(decide(candidates, scorers, DecisionSettings(**settings)))


def many_requests(names, *, width=3):
    """Requests of the same two ads, told apart by their ids."""
    lists = np.zeros((2, width), np.int32)
    lists[:, :3] = HAT_AND_SHOE.creative_lists
    return Candidates(
        request_ids=tuple(names),
        request_index=np.repeat(np.arange(len(names), dtype=np.int32), 2),
        ad_ids=("hat", "shoe") * len(names),
        bid_micros=np.tile(HAT_AND_SHOE.bid_micros, len(names)),
        creative_lists=np.tile(lists, (len(names), 1)),
        pinned=np.zeros(2 * len(names), np.int32),
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_decides_about_every_ad(policy):
    decisions = run(policy=policy, num_slots=1)
    own = HAT_AND_SHOE.creative_lists == decisions.creative_row[:, None]
    assert own.any(1).all()
    assert ((decisions.propensity > 0) & (decisions.propensity <= 1)).all()
    assert sorted(decisions.slot.tolist()) == [-1, 0]
    assert decisions.ecpm_micros == pytest.approx(
        1000 * decisions.pctr * HAT_AND_SHOE.bid_micros
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_a_decision_does_not_depend_on_its_neighbours_or_the_padding(policy):
    names = [f"request-{i}" for i in range(20)]
    together = run(many_requests(names, width=6), policy=policy, epsilon=0.5)
    for place, name in enumerate(names):
        alone = run(many_requests([name]), policy=policy, epsilon=0.5)
        for field in dataclasses.fields(alone):
            mine = getattr(together, field.name)[2 * place : 2 * place + 2]
            if mine.ndim == 2:
                assert np.isnan(mine[:, 3:]).all() or not mine[:, 3:].any()
                mine = mine[:, :3]
            np.testing.assert_array_equal(mine, getattr(alone, field.name))


@pytest.mark.parametrize("policy", ["random", "thompson", *GREEDY])
def test_logged_propensities_are_the_shares_that_are_really_drawn(policy):
    names = [f"request-{i}" for i in range(2000)]
    decisions = run(many_requests(names), policy=policy, epsilon=0.6)
    hats, propensity = decisions.creative_row[::2], decisions.propensity[::2]
    # With true propensities the mean of 1 / propensity over draws of one
    # creative is 1: that is all an off-policy estimate needs.
    for creative in (1, 2):
        weights = np.where(hats == creative, 1 / propensity, 0.0)
        assert weights.mean() == pytest.approx(1, abs=5 * weights.std() / 2000**0.5)


@pytest.mark.parametrize(
    ("policy", "rows"),
    [
        ("cacs", [2, 5]),
        ("post_rank", [2, 5]),
        ("parallel", [2, 5]),
        ("teacher", [1, 4]),
        ("popular", [2, 3]),
    ],
)
def test_each_policy_follows_its_own_score(policy, rows):
    decisions = run(policy=policy)
    assert decisions.creative_row.tolist() == rows
    assert decisions.propensity.tolist() == [1.0, 1.0]


def test_cacs_ranks_with_the_chosen_creative_and_post_rank_without():
    cacs, post_rank = run(policy="cacs"), run(policy="post_rank")
    assert cacs.pctr.tolist() == [0.02, 0.05]
    assert post_rank.pctr.tolist() == [0.02, 0.02]


def test_only_the_policies_that_look_before_ranking_let_a_creative_win_the_slot():
    # The shoe's fifth creative lifts it above a hat with twice the ad-level value.
    bids = dataclasses.replace(HAT_AND_SHOE, bid_micros=np.array([200, 100]))
    assert run(bids, policy="cacs").slot.tolist() == [-1, 0]
    assert run(bids, policy="post_rank").slot.tolist() == [0, -1]


def test_parallel_moves_the_log_odds_of_the_ad_by_how_far_the_choice_stands_out():
    decisions = run(policy="parallel")
    odds = decisions.pctr / (1 - decisions.pctr)
    base = 0.02 / 0.98
    # Scores of the hat are 0 and 1, of the shoe 0, .5 and 2.
    lift = [1 - 1 / 2, 2 - 2.5 / 3]
    assert np.log(odds / base) == pytest.approx(lift)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_pin_comes_before_every_choice(policy):
    pinned = dataclasses.replace(HAT_AND_SHOE, pinned=np.array([1, 0], np.int32))
    decisions = run(pinned, policy=policy, epsilon=1.0)
    assert decisions.creative_row[0] == 1
    assert decisions.propensity[0] == 1
    assert decisions.creative_row[1] in (3, 4, 5)


def test_a_pin_from_outside_the_list_is_shown_without_a_score():
    pinned = dataclasses.replace(HAT_AND_SHOE, pinned=np.array([5, 0], np.int32))
    decisions = run(pinned, policy="parallel")
    assert decisions.creative_row[0] == 5
    assert np.isnan(decisions.selector_score[0])
    assert decisions.pctr[0] == pytest.approx(0.02)


def test_ranking_only_prices_the_first_creative_of_each_list():
    decisions = run(policy="rank_only", epsilon=1.0)
    assert decisions.creative_row.tolist() == [1, 3]
    assert decisions.pctr.tolist() == [0.01, 0.03]
    assert decisions.propensity.tolist() == [1, 1]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_probability_of_a_list_is_told_and_the_choice_has_its_own(policy):
    decisions = run(policy=policy, epsilon=0.5)
    lists, probabilities = HAT_AND_SHOE.creative_lists, decisions.list_probabilities
    assert probabilities.sum(1) == pytest.approx([1, 1])
    assert not probabilities[lists == 0].any()
    chosen = lists == decisions.creative_row[:, None]
    assert (probabilities * chosen).sum(1) == pytest.approx(decisions.propensity)


def test_policies_without_scores_log_none():
    assert np.isnan(run(policy="random").selector_score).all()
    assert run(policy="cacs").selector_score.tolist() == [1.0, 2.0]
    assert run(policy="popular").selector_score == pytest.approx([3 / 20, 10 / 20])


@pytest.mark.parametrize(
    ("policy", "asked"),
    [
        ("cacs", ["selector", "ranker"]),
        ("post_rank", ["ranker", "selector"]),
        ("rank_only", ["ranker"]),
        ("random", ["ranker"]),
        ("popular", ["counts", "ranker"]),
        ("thompson", ["counts", "ranker"]),
        ("teacher", ["teacher", "ranker"]),
    ],
)
def test_stages_are_asked_in_the_order_of_the_policy(policy, asked):
    scorers = FakeScorers()
    run(scorers=scorers, policy=policy)
    assert scorers.asked == asked


def test_parallel_asks_both_stages_at_once():
    async def scenario():
        scorers, started = FakeScorers(), asyncio.Barrier(2)

        async def both_have_started(call, *args):
            await asyncio.wait_for(started.wait(), 5)
            return await call(*args)

        select, rank = scorers.selector_scores, scorers.pctr
        scorers.selector_scores = lambda *args: both_have_started(select, *args)
        scorers.pctr = lambda *args: both_have_started(rank, *args)
        settings = DecisionSettings(policy="parallel")
        return await decide(HAT_AND_SHOE, scorers, settings)

    assert asyncio.run(scenario()).creative_row.tolist() == [2, 5]


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("policy", "stage"),
    [
        ("cacs", "selector"),
        ("cacs", "ranker"),
        ("post_rank", "ranker"),
        ("parallel", "selector"),
        ("teacher", "teacher"),
        ("popular", "counts"),
        ("thompson", "counts"),
    ],
)
def test_a_stage_that_answers_garbage_is_named(policy, stage, garbage):
    def spoil(values):
        spoilt = values.copy()
        spoilt[-1] = garbage
        return spoilt

    with pytest.raises(ValueError, match=rf"^{stage}: .*shoe"):
        run(scorers=FakeScorers(**{stage: spoil}), policy=policy)


@pytest.mark.parametrize("stage", ["selector", "ranker"])
def test_a_stage_that_answers_for_fewer_ads_is_named(stage):
    with pytest.raises(ValueError, match=f"^{stage}: expected"):
        run(scorers=FakeScorers(**{stage: lambda values: values[:1]}))


@pytest.mark.parametrize("impossible", [-0.01, 1.01])
def test_a_ctr_outside_zero_and_one_is_refused(impossible):
    scorers = FakeScorers(ranker=lambda values: np.full_like(values, impossible))
    with pytest.raises(ValueError, match="not a probability"):
        run(scorers=scorers)


def test_an_ad_without_creatives_is_refused():
    empty = dataclasses.replace(
        HAT_AND_SHOE, creative_lists=np.array([[1, 2], [0, 0]], np.int32)
    )
    with pytest.raises(ValueError, match="at least one creative"):
        run(empty)


def test_settings_refuse_what_cannot_be():
    with pytest.raises(InputError):
        DecisionSettings().override({"epsilon": 2.0})
    with pytest.raises(InputError):
        DecisionSettings().override({"num_slots": 0})
