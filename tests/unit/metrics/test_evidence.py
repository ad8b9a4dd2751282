"""What the rule on creatives promises: each state where it is due, few wrong words."""

import numpy as np
import pytest
from scipy import stats

from cacs_ray.metrics.evidence import (
    judge_creatives,
    newcombe_difference,
    wilson_interval,
)

NONE = np.zeros((2, 2))
ONE_AD = np.array([0, 0])


def counts(*pairs):
    return np.array(pairs, float)


@pytest.mark.parametrize(("shown", "clicks"), [(10, 0), (10, 10), (200, 7), (5, 2)])
def test_the_interval_of_a_ctr_is_wilsons(shown, clicks):
    ours = wilson_interval(counts((shown, clicks)), 0.1)
    theirs = stats.binomtest(clicks, shown).proportion_ci(0.9, method="wilson")
    assert ours.value[0] == clicks / shown
    assert (ours.low[0], ours.high[0]) == pytest.approx((theirs.low, theirs.high))


def test_the_interval_of_a_difference_is_newcombes():
    # The paper's example (a) of its table II: 56/70 - 48/80.
    gap = newcombe_difference(counts((70, 56)), counts((80, 48)), 0.05)
    assert gap.value[0] == pytest.approx(0.2)
    assert gap.low[0] == pytest.approx(0.0524, abs=5e-5)
    assert gap.high[0] == pytest.approx(0.3339, abs=5e-5)


def test_turned_round_the_difference_changes_its_sign():
    first, second = counts((300, 9)), counts((500, 40))
    there = newcombe_difference(first, second, 0.05)
    back = newcombe_difference(second, first, 0.05)
    assert there.low[0] == pytest.approx(-back.high[0])
    assert there.high[0] == pytest.approx(-back.low[0])


@pytest.mark.parametrize(
    ("earlier", "recent", "state"),
    [
        # (impressions, clicks) of this creative; the other has 10 % throughout.
        ((0, 0), (1000, 200), "better"),
        ((0, 0), (1000, 30), "worse"),
        ((0, 0), (1000, 104), "learning"),
        ((0, 0), (99, 60), "learning"),
        ((1000, 200), (1000, 90), "fatigued"),
        ((1000, 100), (1000, 40), "fatigued"),
        ((1000, 30), (1000, 5), "worse"),
        ((1000, 200), (1000, 200), "better"),
        ((1000, 200), (99, 0), "better"),
        ((0, 0), (0, 0), "learning"),
    ],
)
def test_each_state_where_it_is_due(earlier, recent, state):
    evidence = judge_creatives(
        ONE_AD,
        counts(earlier, (2000, 200)),
        counts(recent, (2000, 200)),
    )
    assert evidence.state[0] == state


def test_a_creative_alone_is_compared_with_its_past_only():
    alone = np.array([0])
    shown = counts((5000, 500))
    assert judge_creatives(alone, shown, shown).state == ("learning",)
    assert np.isnan(judge_creatives(alone, shown, shown).difference.value[0])
    fell = counts((5000, 300))
    assert judge_creatives(alone, shown, fell).state == ("fatigued",)


def test_ads_do_not_see_each_other():
    both = counts((1000, 100), (1000, 100), (1000, 900), (1000, 900))
    evidence = judge_creatives(np.array([0, 0, 1, 1]), np.zeros((4, 2)), both)
    assert evidence.state == ("learning",) * 4
    assert evidence.difference.value == pytest.approx(np.zeros(4))


def test_more_creatives_ask_for_more_evidence():
    # The same creative against the same rest, which once is one creative, once nine.
    one, rest = (1000, 122), (9000, 900)
    alone = judge_creatives(ONE_AD, NONE, counts(one, rest))
    among = judge_creatives(
        np.zeros(10, int), np.zeros((10, 2)), counts(one, *[(1000, 100)] * 9)
    )
    assert alone.difference.value[0] == pytest.approx(among.difference.value[0])
    assert (alone.state[0], among.state[0]) == ("better", "learning")


@pytest.mark.parametrize("creatives", [2, 3, 8])
def test_of_equal_creatives_little_is_wrongly_said(creatives):
    rng = np.random.default_rng(creatives)
    ads = 600
    ad = np.repeat(np.arange(ads), creatives)
    shown = rng.integers(100, 3000, (2, len(ad))).astype(float)
    clicks = rng.binomial(shown.astype(int), 0.04)
    evidence = judge_creatives(
        ad, np.stack([shown[0], clicks[0]], 1), np.stack([shown[1], clicks[1]], 1)
    )
    state = np.array(evidence.state).reshape(ads, creatives)
    most = stats.binom.ppf(0.999, ads, 0.05)
    assert np.isin(state, ["better", "worse"]).any(1).sum() <= most
    assert (state == "fatigued").any(1).sum() <= most
    # Without the correction more is wrongly said, where creatives are many.
    if creatives == 8:
        total = np.stack([shown.sum(0), clicks.sum(0)], 1)
        rest = np.repeat(total.reshape(ads, creatives, 2).sum(1), creatives, 0) - total
        plain = newcombe_difference(total, rest, 0.05)
        said = ((plain.low > 0) | (plain.high < 0)).reshape(ads, creatives).any(1)
        assert said.sum() > 2 * most
