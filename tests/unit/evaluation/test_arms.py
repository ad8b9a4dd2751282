"""What the comparison of live arms promises."""

from datetime import timedelta

import numpy as np
import pytest

from cacs_ray.errors import InputError
from cacs_ray.evaluation.arm_report import render_arms
from cacs_ray.evaluation.arms import ARM_METRICS, ArmSettings, compare_arms
from tests.unit.evaluation.live_test import (
    ARMS,
    PRICE_MICROS,
    START,
    clicks,
    decisions,
    live_test,
)

DAILY = ArmSettings(look_s=86_400.0, min_clicks=20)
OTHER = {"release": "r2", "request_id": "q2", "user_id": "u2"}


def compare(shown, clicked, settings=DAILY, **asked):
    return compare_arms(shown, clicked, settings, **asked)


def test_each_arm_is_counted_for_itself():
    shown = decisions(
        {},
        {"ad_id": "shoe", "slot": 1},
        {"ad_id": "sock", "slot": None, "price_micros": None},
        {"request_id": "q3", "slot": None, "price_micros": None},
        OTHER,
    )
    report = compare(shown, clicks("q1"))
    one, two = (report["arms"][name] for name in ARMS)
    # A page view that showed nothing is one; a candidate without a slot is not.
    assert (one["page_views"], one["impressions"], one["clicks"]) == (2, 2, 1)
    assert one["users"] == two["users"] == 1
    assert one["metrics"]["ctr"]["value"] == pytest.approx(1 / 2)
    assert one["metrics"]["rpm_micros"]["value"] == 1000 * PRICE_MICROS / 2
    assert one["metrics"]["page_rpm_micros"]["value"] == 1000 * PRICE_MICROS / 2
    assert two["metrics"]["ctr"]["value"] == 0
    assert two["revenue_micros"] == 0


def test_an_arm_is_a_release_with_a_policy():
    shown = decisions({}, {"policy": "random", "request_id": "q2", "user_id": "u2"})
    assert list(compare(shown, clicks())["arms"]) == ["r1/cacs", "r1/random"]


def test_fallbacks_stay_in_their_arm_and_are_told():
    fallen = {"request_id": "q3", "is_fallback": True, "user_id": "u3"}
    report = compare(decisions({}, fallen, OTHER), clicks("q3"))
    assert report["arms"]["r1/cacs"]["fallback_share"] == 0.5
    assert report["arms"]["r1/cacs"]["clicks"] == 1
    assert report["arms"]["r2/cacs"]["fallback_share"] == 0


def test_an_unknown_visitor_is_a_user_of_one_page_view():
    nobody = {"user_id": None, "request_id": "q5"}
    report = compare(
        decisions({}, nobody, nobody | {"request_id": "q6"}, OTHER), clicks()
    )
    arm = report["arms"]["r1/cacs"]
    assert (arm["users"], arm["unknown_visitors"]) == (3, 2)


def test_users_whose_split_was_not_sticky_are_told():
    report = compare(
        decisions({}, OTHER, OTHER | {"user_id": "u1", "request_id": "q3"}), clicks()
    )
    assert report["users_in_several_arms"] == {"users": 1, "share": 0.5}


def test_a_late_click_does_not_count():
    report = compare(decisions({}, OTHER), clicks("q1", after_s=1800.0))
    assert report["arms"]["r1/cacs"]["clicks"] == 0
    assert report["clicks"]["late"] == 1


def test_looks_add_up_to_the_whole_log():
    shown, clicked = live_test(3)
    daily = compare(shown, clicked)
    hourly = compare(shown, clicked, DAILY.override({"look_s": 3600.0}))
    once = compare(shown, clicked, DAILY.override({"look_s": 1e7}))
    assert len(daily["pairs"][0]["metrics"]["ctr"]["curve"]["ts_us"]) == 10
    for metric in ARM_METRICS:
        fixed = [
            one["pairs"][0]["metrics"][metric]["fixed"] for one in (daily, hourly, once)
        ]
        assert fixed[1]["p_value"] == pytest.approx(fixed[0]["p_value"])
        assert fixed[2]["p_value"] == pytest.approx(fixed[0]["p_value"])
    # What a look says is what the log said then.
    ends = START + timedelta(days=4)
    early = shown.filter([ts < ends for ts in shown["request_ts"].to_pylist()])
    curve = daily["pairs"][0]["metrics"]["ctr"]["curve"]
    first_us = min(shown["request_ts"].to_pylist())
    look = (ends - first_us) // timedelta(days=1)
    before = compare(
        early.filter(
            [
                ts < first_us + timedelta(days=1) * look
                for ts in early["request_ts"].to_pylist()
            ]
        ),
        clicked,
    )
    gap = before["pairs"][0]["metrics"]["ctr"]["fixed"]["difference"]["value"]
    assert curve["difference"][look - 1] == pytest.approx(gap)


def test_a_better_arm_is_named_with_its_lift_inside():
    shown, clicked = live_test(1, ctrs=(0.06, 0.12), users=900)
    report = compare(shown, clicked, shares=(0.5, 0.5))
    one = report["pairs"][0]["metrics"]["ctr"]
    assert one["always_valid"]["better"] == "r2/cacs"
    assert (
        one["always_valid"]["lift"]["low"] < 1.0 < one["always_valid"]["lift"]["high"]
    )
    assert one["always_valid"]["lift"]["low"] < one["fixed"]["lift"]["low"]
    decided = one["always_valid"]["decided_us"]
    assert report["pairs"][0]["first_look_us"] <= decided
    assert decided in one["curve"]["ts_us"]
    assert not report["sample_ratio"]["is_mismatch"]
    # Asked the other way round the answer is the same.
    turned = compare(shown, clicked, arms=ARMS[::-1])["pairs"][0]["metrics"]["ctr"]
    assert turned["always_valid"]["better"] == "r2/cacs"
    assert (
        turned["fixed"]["difference"]["value"] == -one["fixed"]["difference"]["value"]
    )
    assert turned["always_valid"]["p_value"] == pytest.approx(
        one["always_valid"]["p_value"]
    )


def test_equal_arms_are_seldom_told_apart():
    better = [
        compare(*live_test(seed))["pairs"][0]["metrics"]["ctr"]["always_valid"][
            "better"
        ]
        for seed in range(8)
    ]
    assert better == [None] * 8


def test_no_look_counts_before_there_are_clicks():
    report = compare(decisions({}, OTHER), clicks("q1"))
    pair = report["pairs"][0]
    assert pair["first_look_us"] is None
    assert np.isnan(pair["metrics"]["ctr"]["always_valid"]["p_value"])
    assert pair["metrics"]["ctr"]["always_valid"]["better"] is None
    assert "no look counts yet" in render_arms(report)


def test_both_arms_need_their_clicks_before_a_look_counts():
    other = [OTHER | {"request_id": f"o{n}", "user_id": f"o{n}"} for n in range(40)]
    views = [{"request_id": f"v{n}", "user_id": f"v{n}"} for n in range(40)]
    clicked = clicks(*(f"v{n}" for n in range(40)), *(f"o{n}" for n in range(19)))
    assert (
        compare(decisions(*views, *other), clicked)["pairs"][0]["first_look_us"] is None
    )
    enough = clicks(*(f"v{n}" for n in range(40)), *(f"o{n}" for n in range(20)))
    assert compare(decisions(*views, *other), enough)["pairs"][0]["first_look_us"]


def test_arms_that_followed_each_other_are_told():
    # The first two days the one, on the third both, then the other.
    days = [(0, "r1"), (1, "r1"), (2, "r1"), (2, "r2"), (3, "r2")]
    views = [
        {
            "request_id": f"q{number}",
            "user_id": f"u{number}",
            "release": release,
            "request_ts": START + timedelta(days=day),
        }
        for number, (day, release) in enumerate(days)
    ]
    report = compare(decisions(*views), clicks())
    assert report["pairs"][0]["concurrent_share"] == pytest.approx(2 / 5)
    assert "may be the days" in render_arms(report)
    together = compare(*live_test(1))
    assert together["pairs"][0]["concurrent_share"] > 0.98
    assert "may be the days" not in render_arms(together)


def test_what_was_once_sure_stays_so():
    for seed in range(3):
        pair = compare(*live_test(seed, ctrs=(0.08, 0.1)))["pairs"][0]
        p_value = pair["metrics"]["ctr"]["curve"]["p_value"]
        known = p_value[np.isfinite(p_value)]
        assert (np.diff(known) <= 0).all()
        assert known[-1] == pair["metrics"]["ctr"]["always_valid"]["p_value"]


def test_a_split_that_lost_users_is_a_mismatch():
    shown, clicked = live_test(2, shares=(0.6, 0.4), users=1500)
    assert compare(shown, clicked, shares=(0.5, 0.5))["sample_ratio"]["is_mismatch"]
    fair = compare(shown, clicked, shares=(0.6, 0.4))
    assert not fair["sample_ratio"]["is_mismatch"]
    page = render_arms(compare(shown, clicked, shares=(0.5, 0.5)))
    assert "Sample ratio mismatch" in page
    assert "Sample ratio mismatch" not in render_arms(fair)
    assert page.count("<svg") == 2


def test_alpha_is_shared_by_the_pairs():
    third = OTHER | {"release": "r3", "request_id": "q7", "user_id": "u7"}
    report = compare(decisions({}, OTHER, third), clicks("q1"))
    assert len(report["pairs"]) == 3
    assert report["pair_alpha"] == pytest.approx(0.05 / 3)


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ({"arms": ["r1/cacs", "r9/cacs"]}, "known_arm"),
        ({"arms": ["r1/cacs"]}, "two_arms"),
        ({"arms": ["r1/cacs", "r1/cacs"]}, "two_arms"),
        ({"shares": [1.0]}, "share_of_each_arm"),
        ({"shares": [1.0, 0.0]}, "share_of_each_arm"),
        ({"shares": [1.0, float("inf")]}, "share_of_each_arm"),
        ({"shares": [1.0, float("nan")]}, "share_of_each_arm"),
        ({"settings": ArmSettings(look_s=1.0)}, "too_many_looks"),
    ],
)
def test_what_cannot_be_compared_is_refused(asked, rule):
    later = OTHER | {"request_ts": START + timedelta(days=1)}
    with pytest.raises(InputError, match=rf"\[{rule}\]"):
        compare(decisions({}, later), clicks(), **asked)


def test_a_log_that_cannot_be_priced_or_is_empty_is_refused():
    with pytest.raises(InputError, match=r"price.*\[missing_price\]"):
        compare(decisions({"price_micros": None}, OTHER), clicks())
    with pytest.raises(InputError, match="empty_log"):
        compare(decisions(), clicks())
