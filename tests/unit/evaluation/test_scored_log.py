"""What a scored log promises and refuses."""

import numpy as np
import pytest

from cacs_ray.errors import InputError
from cacs_ray.evaluation.scored_log import BUCKETS
from tests.unit.evaluation.logs import hats_and_shoes


def test_an_unknown_propensity_is_that_of_uniform_choice():
    propensity = np.full(8, np.nan)
    propensity[0] = 0.9
    log = hats_and_shoes(propensity=propensity)
    assert log.logged_propensity == pytest.approx([0.9, *[1 / 2] * 3, *[1 / 3] * 4])


def test_buckets_hold_both_their_ends():
    counts = np.array([0.0, 0, 1, 10, 11, 1000.5])
    log = hats_and_shoes(impressions=counts)
    named = [BUCKETS[number] for number in log.buckets[[0, 4]].ravel()]
    assert named == ["0", "1-10", "0", "1-10", "11-100", "1001+"]


def test_a_log_without_rows_is_refused():
    log = hats_and_shoes(label=np.zeros(0))
    with pytest.raises(InputError, match="no impressions"):
        log.check()


@pytest.mark.parametrize("garbage", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["selector_scores", "teacher_scores", "pctr"])
def test_a_score_that_is_not_finite_is_named(name, garbage):
    scores = getattr(hats_and_shoes(), name).copy()
    scores[5, 1] = garbage
    with pytest.raises(ValueError, match=name):
        hats_and_shoes(**{name: scores}).check()


def test_scores_of_padding_may_be_anything():
    log = hats_and_shoes()
    assert np.isnan(log.selector_scores[0, 2])
    log.check()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", np.ones(7)),
        ("pctr", np.ones((8, 2))),
        ("shown_index", np.array([2, 1, 1, 0, 0, 1, 2, 2])),
    ],
)
def test_arrays_that_do_not_fit_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        hats_and_shoes(**{field: value}).check()
