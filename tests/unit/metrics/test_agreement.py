"""What the agreement of student and teacher promises, list by list."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy import stats
from sklearn import metrics as sklearn_metrics

from cacs_ray.metrics import agreement
from cacs_ray.metrics.agreement import kendall_tau, ndcg, top1_agreement

FIGURES = [kendall_tau, ndcg, top1_agreement]


@pytest.fixture
def lists():
    rng = np.random.default_rng(0)
    mask = np.arange(7) < rng.integers(2, 8, 60)[:, None]
    # Rounded, so that some creatives tie.
    student = np.round(rng.normal(size=mask.shape), 1)
    teacher = np.round(rng.normal(size=mask.shape), 1)
    return student, teacher, mask


def test_tau_agrees_with_scipy(lists):
    expected = [
        stats.kendalltau(s[m], t[m]).statistic for s, t, m in zip(*lists, strict=True)
    ]
    np.testing.assert_allclose(kendall_tau(*lists), expected, atol=1e-9)


def test_ndcg_agrees_with_scikit_learn(lists):
    expected = []
    for student, teacher, mask in zip(*lists, strict=True):
        gain = np.exp(teacher[mask]) / np.exp(teacher[mask]).sum()
        expected.append(sklearn_metrics.ndcg_score([gain], [student[mask]]))
    np.testing.assert_allclose(ndcg(*lists), expected, atol=1e-9)


def test_top1_is_whether_both_put_the_same_creative_first():
    student = np.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [1.0, 1.0, 0.0]])
    teacher = np.array([[0.0, 9.0, 1.0], [9.0, 0.0, 1.0], [5.0, 5.0, 9.0]])
    mask = np.array([[True] * 3, [True] * 3, [True, True, False]])
    assert top1_agreement(student, teacher, mask).tolist() == [1, 0, 1]


@pytest.mark.parametrize("figure", FIGURES)
def test_a_student_that_is_its_teacher_scores_one(figure, lists):
    _, teacher, mask = lists
    teacher = teacher + np.arange(7) / 1000  # an order without ties
    assert figure(teacher, teacher, mask) == pytest.approx(np.ones(len(mask)))


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e300])
def test_padding_has_no_say(figure, garbage, lists):
    student, teacher, mask = lists
    spoilt = [np.where(mask, scores, garbage) for scores in (student, teacher)]
    np.testing.assert_array_equal(figure(*spoilt, mask), figure(*lists))


@pytest.mark.parametrize("figure", FIGURES)
def test_a_list_without_a_choice_has_no_figure(figure):
    mask = np.array([[True, False], [False, False], [True, True]])
    scores = np.array([[1.0, 2.0]] * 3)
    assert np.isnan(figure(scores, scores, mask)).tolist() == [True, True, False]


@pytest.mark.parametrize("figure", FIGURES)
def test_no_lists_no_figures(figure):
    assert figure(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3), bool)).size == 0


@pytest.mark.parametrize("figure", FIGURES)
def test_blocks_of_lists_change_nothing(figure, lists, monkeypatch):
    whole = figure(*lists)
    monkeypatch.setattr(agreement, "_PAIRS_AT_ONCE", 7 * 49)
    np.testing.assert_array_equal(figure(*lists), whole)


def test_a_student_without_opinion_states_no_order():
    flat, teacher = np.zeros((1, 3)), np.array([[3.0, 1.0, 2.0]])
    assert np.isnan(kendall_tau(flat, teacher, np.ones((1, 3), bool))).all()


@pytest.mark.parametrize("figure", FIGURES)
def test_the_order_of_the_creatives_has_no_say(figure, lists):
    student, teacher, mask = lists
    # Without ties: of equal scores the first is the best.
    apart = np.arange(7) / 1000
    lists = [student + apart, teacher - apart, mask]
    order = np.random.default_rng(1).permutation(7)
    shuffled = figure(*[column[:, order] for column in lists])
    np.testing.assert_allclose(shuffled, figure(*lists), atol=1e-12)


@pytest.mark.parametrize("figure", FIGURES)
def test_the_level_and_unit_of_the_student_have_no_say(figure, lists):
    student, teacher, mask = lists
    other = figure(8 * student - 64, teacher, mask)
    np.testing.assert_array_equal(other, figure(*lists))


@pytest.mark.parametrize("figure", FIGURES)
def test_a_wrong_shape_is_refused(figure, lists):
    for wrong in range(3):
        short = [c[:, :-1] if i == wrong else c for i, c in enumerate(lists)]
        with pytest.raises(TypeCheckError):
            figure(*short)
