"""What splitting traffic promises: sticky users, exact shares, told-apart arms."""

import numpy as np
import pytest
from pydantic import ValidationError

from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.errors import InputError
from serve.arms import LIVE, ArmArgs, ExperimentArgs, make_arms

SETTINGS = DecisionSettings(num_slots=2)


def arms(*asked, name="arms", bundle_ids=None):
    experiment = ExperimentArgs(name=name, arms=asked)
    return make_arms(experiment, SETTINGS, bundle_ids or {})


def test_a_user_stays_in_one_arm_whatever_the_request():
    split = arms(ArmArgs(name="half", share=0.5, policy="post_rank"))
    for user in ("u1", "u2", "\ud800"):
        names = {split.of(user, f"q{i}").name for i in range(20)}
        assert len(names) == 1


def test_shares_are_what_was_asked_for():
    split = arms(
        ArmArgs(name="a", share=0.2, policy="post_rank"),
        ArmArgs(name="b", share=0.3, policy="parallel"),
    )
    names = np.array([split.of(f"u{i}", "q").name for i in range(20_000)])
    for name, share in (("a", 0.2), ("b", 0.3), (LIVE, 0.5)):
        assert (names == name).mean() == pytest.approx(share, abs=0.015)


def test_visitors_without_an_id_are_split_by_request():
    split = arms(ArmArgs(name="half", share=0.5, policy="post_rank"))
    names = {split.of(None, f"q{i}").name for i in range(40)}
    assert names == {"half", LIVE}


def test_another_experiment_deals_the_users_anew():
    asked = ArmArgs(name="half", share=0.5, policy="post_rank")
    one, two = arms(asked, name="one"), arms(asked, name="two")
    users = [f"u{i}" for i in range(400)]
    same = np.mean([one.of(u, "q").name == two.of(u, "q").name for u in users])
    assert 0.35 < same < 0.65


def test_an_arm_changes_only_what_it_names():
    split = arms(
        ArmArgs(name="next", share=0.5, bundle="/b", epsilon=0.1),
        bundle_ids={"/b": "r2"},
    )
    arm = next(a for i in range(99) if (a := split.of(f"u{i}", "q")).name == "next")
    assert (arm.release, arm.settings.epsilon, arm.settings.policy) == (
        "r2",
        0.1,
        "cacs",
    )
    assert arm.settings.num_slots == 2
    assert (split.live.release, split.live.settings) == (None, SETTINGS)


@pytest.mark.parametrize(
    "asked",
    [
        [ArmArgs(name="a", share=0.6, policy="random")] * 2,
        [
            ArmArgs(name="a", share=0.6, policy="random"),
            ArmArgs(name="b", share=0.6, policy="popular"),
        ],
        [ArmArgs(name="live", share=0.5, policy="random")],
        # The decision log names release and policy: these are the same as `live`.
        [ArmArgs(name="a", share=0.5, epsilon=0.5)],
        [
            ArmArgs(name="a", share=0.2, policy="random"),
            ArmArgs(name="b", share=0.2, policy="random", epsilon=0.5),
        ],
    ],
)
def test_arms_that_nobody_could_compare_are_refused(asked):
    with pytest.raises(ValidationError):
        ExperimentArgs(arms=asked)


def test_each_user_is_answered_by_the_arm_of_the_user(make_service, page_view):
    split = arms(ArmArgs(name="half", share=0.5, policy="rank_only"))
    service = make_service(rules={"arms": split})
    for user in [f"u{i}" for i in range(12)]:
        answer = service.send(page_view | {"user_id": user}).json()
        assert answer["policy"] == split.of(user, "q").settings.policy


def test_an_arm_that_comes_out_as_the_live_one_is_refused():
    with pytest.raises(InputError, match="arms_told_apart"):
        arms(ArmArgs(name="same", share=0.5, policy="cacs"))


def test_an_arm_that_is_not_held_is_answered_as_live_and_says_so(
    make_service, page_view
):
    split = arms(
        ArmArgs(name="next", share=0.5, bundle="/b", policy="rank_only"),
        bundle_ids={"/b": "r2"},
    )
    service = make_service(rules={"arms": split})
    for user in [f"u{i}" for i in range(12)]:
        answer = service.send(page_view | {"user_id": user}).json()
        is_missing = split.of(user, "q").name == "next"
        assert (answer["policy"], answer["release"]) == ("cacs", "r1")
        assert answer["fallback_reason"] == ("arm_not_held" if is_missing else None)
