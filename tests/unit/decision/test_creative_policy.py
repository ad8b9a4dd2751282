"""What the choice of a creative promises."""

import numpy as np
import pytest

from cacs_ray.decision.creative_policy import (
    THOMPSON_DRAWS,
    draw_choice,
    epsilon_greedy,
    epsilon_greedy_probabilities,
    request_generators,
    smoothed_ctr,
    thompson_probabilities,
    uniform_probabilities,
)

SCORES = np.array([[0.1, 0.9, 0.4], [2.0, 1.0, np.nan]])
MASK = np.array([[True, True, True], [True, True, False]])


def thompson(mask=MASK, seed=0):
    shape = mask.shape
    return thompson_probabilities(
        np.full(shape, 3.0),
        np.full(shape, 30.0),
        mask,
        (1.0, 9.0),
        np.random.default_rng(seed),
    )


@pytest.mark.parametrize(
    "probabilities",
    [
        uniform_probabilities(MASK),
        epsilon_greedy_probabilities(SCORES, MASK, 0.0),
        epsilon_greedy_probabilities(SCORES, MASK, 0.3),
        epsilon_greedy_probabilities(SCORES, MASK, 1.0),
        thompson(),
    ],
    ids=["uniform", "greedy", "epsilon", "all-epsilon", "thompson"],
)
def test_every_policy_sums_to_one_and_never_gives_padding_a_chance(probabilities):
    assert probabilities.sum(1) == pytest.approx([1, 1])
    assert probabilities[1, 2] == 0
    assert (probabilities >= 0).all()


def test_greedy_takes_the_best_real_creative_whatever_the_padding_holds():
    choice = epsilon_greedy(SCORES, MASK, epsilon=0.0, uniforms=np.array([0.0, 0.99]))
    assert choice.index.tolist() == [1, 0]
    assert choice.propensity.tolist() == [1.0, 1.0]


def test_epsilon_is_shared_by_all_creatives_and_the_best_keeps_the_rest():
    probabilities = epsilon_greedy_probabilities(SCORES, MASK, 0.3)
    assert probabilities[0] == pytest.approx([0.1, 0.8, 0.1])
    assert probabilities[1] == pytest.approx([0.85, 0.15, 0])


def test_ties_go_to_the_lowest_index():
    flat = np.zeros((1, 3))
    probabilities = epsilon_greedy_probabilities(flat, MASK[:1], 0.0)
    assert probabilities.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, float("nan")])
def test_an_impossible_epsilon_is_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon"):
        epsilon_greedy_probabilities(SCORES, MASK, epsilon)


@pytest.mark.parametrize(
    ("uniform", "index"), [(0.0, 0), (0.24, 0), (0.25, 1), (0.74, 1), (0.75, 2)]
)
def test_a_uniform_number_lands_in_its_share_of_the_list(uniform, index):
    choice = draw_choice(np.array([[0.25, 0.5, 0.25]]), np.array([uniform]))
    assert choice.index.tolist() == [index]


def test_a_creative_without_probability_is_never_drawn():
    probabilities = np.array([[0.0, 0.1 + 0.2 + 0.7 - 1e-16, 0.0]])
    for uniform in (0.0, 1 - 2**-53):
        assert draw_choice(probabilities, np.array([uniform])).index == 1


def test_drawn_shares_match_the_logged_propensities():
    probabilities = epsilon_greedy_probabilities(SCORES[:1], MASK[:1], 0.3)
    uniforms = (np.arange(1000) + 0.5) / 1000
    choice = draw_choice(np.repeat(probabilities, 1000, axis=0), uniforms)
    assert np.bincount(choice.index).tolist() == [100, 800, 100]
    assert (choice.propensity == probabilities[0, choice.index]).all()


def test_popular_is_the_posterior_mean():
    rate = smoothed_ctr(np.array([[3.0]]), np.array([[20.0]]), (2.0, 30.0))
    assert rate.item() == (3 + 2) / (20 + 2 + 30)


def test_thompson_leaves_every_creative_a_chance():
    clicks, shows = np.array([[90.0, 0.0]]), np.array([[100.0, 1000.0]])
    probabilities = thompson_probabilities(
        clicks, shows, MASK[:1, :2], (1.0, 1.0), np.random.default_rng(0)
    )
    # No vote for the second creative but half of the one that all share.
    assert probabilities[0, 1] == pytest.approx(0.5 / (THOMPSON_DRAWS + 1))


def test_thompson_is_about_fair_between_equals():
    assert thompson()[0] == pytest.approx([1 / 3] * 3, abs=0.15)


def test_thompson_does_not_see_the_padding():
    wide = np.concatenate([MASK, np.zeros((2, 4), bool)], axis=1)
    assert (thompson(wide)[:, :3] == thompson()).all()


def test_a_generator_depends_on_its_request_alone():
    alone = request_generators(["b"], purpose="choice")[0].random(3)
    among = request_generators(["a", "b", "c"], purpose="choice")
    assert (among[1].random(3) == alone).all()
    assert (among[0].random(3) != alone).all()
    other = request_generators(["b"], purpose="posterior")[0].random(3)
    assert (other != alone).all()


def test_a_lone_surrogate_in_an_id_does_not_stop_a_decision():
    assert request_generators(["\ud800"], purpose="choice")
