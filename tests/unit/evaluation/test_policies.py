"""What target policies promise on a logged list."""

import numpy as np
import pytest

from cacs_ray.evaluation.policies import (
    available_policies,
    importance,
    policy_probabilities,
)
from tests.unit.evaluation.logs import hats_and_shoes

ALL = available_policies(hats_and_shoes())


@pytest.mark.parametrize("name", ALL)
def test_every_policy_is_a_distribution_over_real_creatives(name):
    log = hats_and_shoes()
    probabilities = policy_probabilities(log, name)
    assert probabilities.sum(1) == pytest.approx(np.ones(8))
    assert (probabilities[~log.mask] == 0).all()


@pytest.mark.parametrize(
    ("name", "rows"),
    [("popular", [1, 3]), ("cacs", [2, 5]), ("teacher", [2, 4])],
)
def test_each_policy_follows_its_own_score(name, rows):
    log = hats_and_shoes()
    chosen = log.lists[np.arange(8), policy_probabilities(log, name).argmax(1)]
    assert chosen.tolist() == [rows[0]] * 4 + [rows[1]] * 4


def test_thompson_is_the_same_for_equal_lists_and_favours_what_clicks():
    probabilities = policy_probabilities(hats_and_shoes(), "thompson")
    assert (probabilities[:4] == probabilities[0]).all()
    assert probabilities[0, 0] > 0.9


def test_without_teacher_scores_there_is_no_teacher():
    log = hats_and_shoes(teacher_scores=None)
    assert "teacher" not in available_policies(log)
    with pytest.raises(ValueError, match="teacher_scores"):
        policy_probabilities(log, "teacher")


def test_importance_is_target_over_logging_probability():
    log = hats_and_shoes()
    match = log.shown(policy_probabilities(log, "cacs"))
    expected = [0, 2, 2, 0, 0, 0, 3, 3]
    assert importance(log, "cacs", match) == pytest.approx(expected)
    assert importance(log, "logged", np.ones(8)).tolist() == [1] * 8
