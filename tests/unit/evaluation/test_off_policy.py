"""What valuing one policy from the log of another promises."""

import numpy as np
import pyarrow as pa
import pytest

from cacs_ray.errors import InputError
from cacs_ray.evaluation.off_policy import (
    OffPolicySettings,
    compare_with_on_policy,
    logged_shares,
    value_policy_from_log,
)
from cacs_ray.schema import Column

CTR = {"a1": 0.30, "a2": 0.10, "b1": 0.05, "b2": 0.20, "b3": 0.10}
UNIFORM = {"a1": 1 / 2, "a2": 1 / 2, "b1": 1 / 3, "b2": 1 / 3, "b3": 1 / 3}
GREEDY = {"a1": 0.9, "a2": 0.1, "b1": 0.1, "b2": 0.8, "b3": 0.1}
TINY = OffPolicySettings(min_effective_sample=1, min_matched_clicks=1)
QUICK = OffPolicySettings(replicates=100)


def target(policy):
    return pa.table(
        {
            Column.AD_ID: [name[0] for name in policy],
            Column.CREATIVE_ID: list(policy),
            Column.PROPENSITY: list(policy.values()),
        }
    )


def impressions(creatives, clicks, policy=UNIFORM, **more):
    return pa.table(
        {
            Column.REQUEST_ID: [f"r{i}" for i in range(len(creatives))],
            Column.AD_ID: [name[0] for name in creatives],
            Column.CREATIVE_ID: list(creatives),
            Column.IS_CLICKED: [bool(click) for click in clicks],
            Column.PROPENSITY: [policy[name] for name in creatives],
            **more,
        }
    )


def logged(policy, seed, rows=4000):
    rng = np.random.default_rng(seed)
    names = np.array(list(CTR))
    is_hat = rng.random(rows) < 0.5
    hats = rng.choice(names[:2], rows, p=[policy[n] for n in names[:2]])
    shoes = rng.choice(names[2:], rows, p=[policy[n] for n in names[2:]])
    shown = np.where(is_hat, hats, shoes).tolist()
    clicks = rng.random(rows) < np.array([CTR[name] for name in shown])
    return impressions(shown, clicks, policy)


def true_value(policy):
    return sum(policy[name] * CTR[name] for name in CTR) / 2


def test_the_estimates_by_hand():
    log = impressions(["a1", "a1", "a2", "a2"], [1, 0, 0, 1])
    answer = value_policy_from_log(log, target(GREEDY), TINY)
    rho = [0.9 * 2, 0.9 * 2, 0.1 * 2, 0.1 * 2]
    estimates = answer["estimates"]
    assert estimates["ips"]["value"] == pytest.approx((rho[0] + rho[3]) / 4)
    assert estimates["snips"]["value"] == pytest.approx((rho[0] + rho[3]) / sum(rho))
    squares = sum(r**2 for r in rho)
    assert answer["effective_sample_size"] == pytest.approx(sum(rho) ** 2 / squares)
    assert answer["mean_importance"] == pytest.approx(1)


@pytest.mark.parametrize("wanted", [GREEDY, UNIFORM], ids=["greedy", "uniform"])
def test_intervals_hold_the_true_value(wanted):
    held = dict.fromkeys(("ips", "snips", "dr"), 0)
    for seed in range(40):
        log = logged(UNIFORM, seed, rows=1500)
        answer = value_policy_from_log(log, target(wanted), QUICK)
        for name, one in answer["estimates"].items():
            held[name] += one["low"] <= true_value(wanted) <= one["high"]
    # 95 % of 40 is 38; four standard errors are 5.5.
    assert min(held.values()) >= 33


def test_a_log_that_was_not_uniform_is_corrected():
    answer = value_policy_from_log(logged(GREEDY, 0, 20_000), target(UNIFORM), QUICK)
    for one in answer["estimates"].values():
        assert one["value"] == pytest.approx(true_value(UNIFORM), abs=0.02)
    assert abs(true_value(GREEDY) - true_value(UNIFORM)) > 0.04


def test_the_doubly_robust_interval_is_not_wider_than_that_of_ips():
    answer = value_policy_from_log(logged(UNIFORM, 0), target(GREEDY), QUICK)
    widths = {n: e["high"] - e["low"] for n, e in answer["estimates"].items()}
    assert widths["dr"] < widths["ips"]


def test_weights_are_impressions():
    log = impressions(["a1", "a1", "a2"], [1, 0, 1], weight=[3.0, 2.0, 1.0])
    names, clicks = ["a1"] * 5 + ["a2"], [1, 1, 1, 0, 0, 1]
    whole = value_policy_from_log(impressions(names, clicks), target(GREEDY), TINY)
    weighted = value_policy_from_log(log, target(GREEDY), TINY)
    for figure in ("ips", "snips"):
        assert weighted["estimates"][figure]["value"] == pytest.approx(
            whole["estimates"][figure]["value"]
        )
    for figure in ("impressions", "matched_clicks", "effective_sample_size"):
        assert weighted[figure] == pytest.approx(whole[figure])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"min_effective_sample": 1e9}, "effective sample size"),
        ({"min_matched_clicks": 1e9}, "matched clicks"),
    ],
)
def test_thin_support_is_refused_with_its_reason(changes, reason):
    settings = OffPolicySettings(**changes)
    answer = value_policy_from_log(logged(UNIFORM, 0), target(GREEDY), settings)
    assert answer["status"] == "refused"
    assert reason in answer["reason"]
    assert answer["estimates"] == {}


def test_a_policy_that_wants_what_was_never_shown_is_refused():
    log = logged(UNIFORM, 0)
    wanted = {"a1": 0.5, "a3": 0.5, "b1": 1.0}
    answer = value_policy_from_log(log, target(wanted), QUICK)
    assert answer["status"] == "refused"
    assert "unsupported share" in answer["reason"]
    assert answer["unsupported_share"] == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    "policy",
    [
        {"a1": 0.5, "a2": 0.4, "b1": 1.0},
        {"a1": 1.5, "a2": -0.5, "b1": 1.0},
        {"a1": 1.0},
        {"a1": float("nan"), "a2": 0.4, "b1": 1.0},
    ],
    ids=["does not sum to one", "negative", "an ad is missing", "not a number"],
)
def test_a_target_that_is_no_distribution_is_refused(policy):
    with pytest.raises(InputError, match="sum to one"):
        value_policy_from_log(logged(UNIFORM, 0), target(policy))


def test_a_log_without_propensities_is_refused():
    log = logged(UNIFORM, 0)
    with pytest.raises(InputError, match="propensity"):
        value_policy_from_log(log.drop_columns([Column.PROPENSITY]), target(GREEDY))


def test_an_empty_log_is_refused():
    with pytest.raises(InputError, match="no impressions"):
        value_policy_from_log(logged(UNIFORM, 0).slice(0, 0), target(GREEDY))


def test_the_shares_of_a_log_are_its_marginal_policy():
    log = impressions(["a1", "a1", "a2", "b1"], [0, 0, 0, 0], weight=[1.0, 1, 2, 5])
    shares = logged_shares(log).to_pylist()
    found = {row[Column.CREATIVE_ID]: row[Column.PROPENSITY] for row in shares}
    assert found == {"a1": 0.5, "a2": 0.5, "b1": 1.0}


def test_an_off_policy_value_stands_beside_what_was_really_earned():
    answer = compare_with_on_policy(
        logged(UNIFORM, 1), logged(GREEDY, 2, 20_000), settings=QUICK
    )
    earned = answer["on_policy"]
    assert earned["impressions"] == 20_000
    assert earned["value"] == pytest.approx(true_value(GREEDY), abs=0.02)
    for name, one in answer["off_policy"]["estimates"].items():
        assert one["value"] == pytest.approx(true_value(GREEDY), abs=0.05)
        is_inside = one["low"] <= earned["value"] <= one["high"]
        assert answer["is_on_policy_inside"][name] is is_inside


def test_a_refused_value_is_compared_with_nothing():
    settings = OffPolicySettings(min_effective_sample=1e9)
    answer = compare_with_on_policy(
        logged(UNIFORM, 0), logged(GREEDY, 1), settings=settings
    )
    assert answer["is_on_policy_inside"] == {}
