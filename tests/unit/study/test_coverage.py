"""Logs drawn from a bandit whose values are known."""

import numpy as np
import pytest

from cacs_ray.simulation.draw import draw_market
from cacs_ray.simulation.recipes import market_recipe
from cacs_ray.study.coverage import bandit_of, value_runs


@pytest.fixture(scope="module")
def market():
    return draw_market(market_recipe("smoke"), seed=0)


@pytest.mark.parametrize("logging", ["uniform", "epsilon_greedy", "greedy"])
def test_policies_are_distributions_over_the_creatives_of_each_ad(market, logging):
    bandit = bandit_of(market, logging)
    for policy in (bandit.logging, bandit.target):
        assert np.bincount(bandit.ad, policy) == pytest.approx(1.0)


def test_logs_follow_the_logging_policy_and_the_true_ctr(market):
    bandit = bandit_of(market, "epsilon_greedy")
    log = bandit.draw(1, 400_000)
    row = np.array([int(c[1:]) for c in log["creative_id"].to_pylist()])
    shown = np.bincount(row, minlength=len(bandit.ad))
    of_ad = np.bincount(bandit.ad, shown)[bandit.ad]
    assert shown / of_ad == pytest.approx(bandit.logging, abs=0.02)
    assert log["propensity"].to_numpy() == pytest.approx(bandit.logging[row])
    ctr = log["is_clicked"].to_numpy().mean()
    expected = (bandit.logging * bandit.true_ctr).sum() / 40
    assert ctr == pytest.approx(expected, abs=0.003)


def test_estimates_come_near_the_truth(market):
    bandit = bandit_of(market, "uniform")
    answers = value_runs(bandit, 0, 3)
    values = [one["estimates"]["snips"]["value"] for one in answers]
    assert np.mean(values) == pytest.approx(bandit.true_value, rel=0.1)


def test_a_log_without_exploration_is_refused_with_the_reason(market):
    (answer,) = value_runs(bandit_of(market, "greedy"), 0, 1)
    assert answer["status"] == "refused"
    assert "thin support" in answer["reason"]
