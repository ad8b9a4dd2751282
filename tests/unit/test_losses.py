"""What the training objectives promise, one promise a test."""

from functools import partial
from math import exp, log

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from cacs_ray import losses

LISTWISE = {
    "listwise": lambda *a: losses.listwise_distillation_loss(*a, temperature=1.0),
    "rank_labels": losses.rank_label_loss,
    "clid": losses.clid_loss,
}
DISTILLATIONS = {**LISTWISE, "pointwise": losses.pointwise_distillation_loss}

# Each loss with arguments for N rows, by name; the last one is the weight.
ROWS = {
    "click": (losses.click_loss, lambda n: [normal(n), uniform(n), weight_of(n)]),
    "click_negatives_less": (
        partial(losses.click_loss, negative_weight=0.2),
        lambda n: [normal(n), uniform(n), weight_of(n)],
    ),
    "listwise_click": (
        losses.listwise_click_loss,
        lambda n: [normal(n, 3), torch.arange(n) % 2, mask_of(n), weight_of(n)],
    ),
    "gate_kl": (
        losses.gate_kl_loss,
        lambda n: [uniform(n), uniform(n), weight_of(n)],
    ),
    **{
        name: (loss, lambda n: [normal(n, 3), normal(n, 3), mask_of(n), weight_of(n)])
        for name, loss in DISTILLATIONS.items()
    },
}

every_loss = pytest.mark.parametrize(("loss", "arguments"), ROWS.values(), ids=ROWS)
every_distillation = pytest.mark.parametrize("loss", DISTILLATIONS.values())
every_listwise = pytest.mark.parametrize("loss", LISTWISE.values())


def normal(*shape: int) -> Tensor:
    return torch.randn(shape)


def uniform(*shape: int) -> Tensor:
    return torch.rand(shape)


def weight_of(num_rows: int) -> Tensor:
    return torch.arange(num_rows) % 4 + 1.0


def mask_of(num_rows: int) -> Tensor:
    """Lists of two and of three creatives."""
    return torch.arange(3) < (torch.arange(num_rows) % 2 + 2).unsqueeze(-1)


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def call(loss, student, teacher, mask=None, weight=None) -> Tensor:
    """Call a loss on plain lists; without a mask every creative is real."""
    student = torch.as_tensor(student, dtype=torch.float32)
    teacher = torch.as_tensor(teacher, dtype=torch.float32)
    mask = torch.ones_like(student).bool() if mask is None else torch.tensor(mask)
    rows = [1.0] * len(student) if weight is None else weight
    return loss(student, teacher, mask, torch.tensor(rows))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_listwise_is_cross_entropy_of_soft_labels(temperature):
    # Two creatives: the teacher scores them 1 and 0, the student 0 and 2.
    q = exp(1 / temperature) / (exp(1 / temperature) + exp(0))
    p = exp(0) / (exp(0) + exp(2))

    actual = losses.listwise_distillation_loss(
        torch.tensor([[0.0, 2.0]]),
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[True, True]]),
        torch.ones(1),
        temperature=temperature,
    )

    assert actual.item() == pytest.approx(-(q * log(p) + (1 - q) * log(1 - p)))


def test_rank_labels_are_reciprocal_ranks():
    # Teacher order: second, third, first -> ranks 3, 1, 2.
    labels = [1 / 3 / (11 / 6), 1 / (11 / 6), 1 / 2 / (11 / 6)]
    total = exp(1) + exp(2) + exp(3)
    expected = -sum(
        q * log(exp(s) / total) for q, s in zip(labels, [1, 2, 3], strict=True)
    )

    actual = call(losses.rank_label_loss, [[1, 2, 3]], [[-5, 9, 0]])

    assert actual.item() == pytest.approx(expected)


def test_clid_compares_shares_of_probability():
    p = sigmoid(0) / (sigmoid(0) + sigmoid(-2))
    q = sigmoid(1) / (sigmoid(1) + sigmoid(-1))

    actual = call(losses.clid_loss, [[0, -2]], [[1, -1]])

    assert actual.item() == pytest.approx(-(q * log(p) + (1 - q) * log(1 - p)))


def test_pointwise_is_log_loss_against_the_teacher():
    expected = -(sigmoid(1) * log(sigmoid(2)) + sigmoid(-1) * log(sigmoid(-2)))

    actual = call(losses.pointwise_distillation_loss, [[2]], [[1]])

    assert actual.item() == pytest.approx(expected)


def listwise_clicks(logits, shown, mask, clicks) -> Tensor:
    return losses.listwise_click_loss(
        torch.as_tensor(logits, dtype=torch.float32),
        torch.tensor(shown),
        torch.tensor(mask),
        torch.tensor(clicks),
    )


def test_it_is_the_share_of_the_clicked_creative_in_nats_per_click():
    # Two clicks on the first of two creatives, one on the third of three.
    first = log(exp(1) / (exp(1) + exp(0)))
    third = log(exp(2) / (exp(0) + exp(1) + exp(2)))
    mask = [[True, True, False], [True, True, True]]
    actual = listwise_clicks([[1, 0, 5], [0, 1, 2]], [0, 2], mask, [2.0, 1.0])
    assert actual.item() == pytest.approx(-(2 * first + third) / 3)


def test_the_level_of_a_clicked_list_is_not_taught():
    near = listwise_clicks([[1, 0]], [0], [[True, True]], [1.0])
    far = listwise_clicks([[8, 7]], [0], [[True, True]], [1.0])
    assert near.item() == pytest.approx(far.item())


@pytest.mark.parametrize("garbage", [1e30, float("inf"), float("nan")])
def test_padding_of_a_clicked_list_has_no_say(garbage):
    logits = torch.tensor([[1.0, 0.0, garbage]], requires_grad=True)
    padded = listwise_clicks(logits, [0], [[True, True, False]], [1.0])
    padded.backward()
    alone = listwise_clicks([[1, 0]], [0], [[True, True]], [1.0])
    assert padded.item() == pytest.approx(alone.item())
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0


def test_a_clicked_list_of_one_is_left_out_of_the_mean():
    alone = listwise_clicks([[1, 0]], [0], [[True, True]], [1.0])
    both = [[True, True], [True, False]]
    beside = listwise_clicks([[1, 0], [3, 0]], [0, 0], both, [1.0, 1.0])
    assert beside.item() == pytest.approx(alone.item())


def test_without_clicked_lists_there_is_nothing_to_pay():
    none = torch.zeros(0, 2)
    actual = losses.listwise_click_loss(
        none, none[:, 0].long(), none.bool(), none[:, 0]
    )
    assert actual.item() == 0


@every_listwise
def test_a_student_without_opinion_costs_log_n(loss):
    actual = call(loss, [[0, 0, 0, 0]], [[9, 1, 0, 3]])
    assert actual.item() == pytest.approx(log(4))


@every_distillation
@pytest.mark.parametrize("garbage", [1e30, -1e30, float("inf"), float("nan")])
def test_padding_has_no_say(loss, garbage):
    student = torch.tensor([[0.5, 1.0, garbage]], requires_grad=True)

    padded = call(loss, student, [[1.0, 0.0, garbage]], [[True, True, False]])
    padded.backward()

    alone = call(loss, [[0.5, 1.0]], [[1.0, 0.0]])
    assert padded.item() == pytest.approx(alone.item())
    assert student.grad is not None
    assert student.grad[0, 2] == 0
    assert student.grad.isfinite().all()


@every_listwise
@pytest.mark.parametrize("mask", [[True, False], [False, False]])
def test_a_list_without_a_choice_is_left_out_of_the_mean(loss, mask):
    alone = call(loss, [[0.5, 1.0]], [[1.0, 0.0]])
    beside = call(
        loss, [[0.5, 1.0], [3.0, 0.0]], [[1.0, 0.0]] * 2, [[True, True], mask]
    )
    assert beside.item() == pytest.approx(alone.item())


@every_distillation
def test_with_no_list_left_it_costs_nothing(loss):
    assert call(loss, [[3.0, 0.0]], [[1.0, 0.0]], [[False, False]]).item() == 0


@every_distillation
def test_the_teacher_is_not_trained(loss):
    student = torch.zeros(1, 2, requires_grad=True)
    teacher = torch.ones(1, 2, requires_grad=True)
    call(loss, student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("loss", [LISTWISE["listwise"], LISTWISE["rank_labels"]])
def test_the_level_of_a_list_is_not_taught(loss):
    near = call(loss, [[0.5, 1.0]], [[1.0, 0.0]])
    far = call(loss, [[7.5, 8.0]], [[-4.0, -5.0]])
    assert far.item() == pytest.approx(near.item())


def test_a_temperature_of_zero_is_refused():
    one = torch.ones(1, 2)
    with pytest.raises(ValueError, match="positive"):
        losses.listwise_distillation_loss(
            one, one, one.bool(), one[:, 0], temperature=0.0
        )


def test_gate_kl_is_the_divergence_of_two_coins_over_seen_values():
    expected = 0.8 * log(0.8 / 0.5) + 0.2 * log(0.2 / 0.5)
    actual = losses.gate_kl_loss(
        torch.tensor([0.8, 0.1]), torch.tensor([0.5, 0.9]), torch.tensor([1.0, 0.0])
    )
    assert actual.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_gate_kl_is_finite_for_a_gate_that_is_sure(p):
    keep = torch.tensor([p], requires_grad=True)
    losses.gate_kl_loss(keep, torch.tensor([0.5]), torch.ones(1)).backward()
    assert keep.grad is not None
    assert keep.grad.isfinite().all()


@every_loss
def test_the_order_of_the_rows_has_no_say(loss, arguments):
    columns, order = arguments(20), torch.randperm(20)
    shuffled = loss(*[column[order] for column in columns])
    assert shuffled.item() == pytest.approx(loss(*columns).item(), rel=1e-5)


@every_loss
def test_a_weight_is_that_many_equal_rows(loss, arguments):
    *columns, weight = arguments(20)
    repeated = [column.repeat_interleave(weight.long(), 0) for column in columns]
    alone = loss(*repeated, torch.ones(int(weight.sum())))
    assert alone.item() == pytest.approx(loss(*columns, weight).item(), rel=1e-5)


@every_loss
def test_only_the_shares_of_the_weights_count(loss, arguments):
    *columns, weight = arguments(20)
    tenfold = loss(*columns, 10 * weight).item()
    assert tenfold == pytest.approx(loss(*columns, weight).item(), rel=1e-5)


@every_loss
def test_a_row_without_weight_has_no_say_whatever_it_holds(loss, arguments):
    columns = arguments(20)
    columns[0][7], columns[-1][7] = torch.nan, 0.0
    kept = [torch.cat([column[:7], column[8:]]) for column in columns]
    assert loss(*columns).item() == pytest.approx(loss(*kept).item(), rel=1e-5)


@every_loss
def test_without_any_weight_there_is_nothing_to_pay(loss, arguments):
    *columns, weight = arguments(4)
    assert loss(*columns, 0 * weight).item() == 0
    nothing = [column[:0] for column in (*columns, weight)]
    assert loss(*nothing).item() == 0


@every_loss
def test_the_sum_over_parts_is_the_whole(loss, arguments):
    # What lets workers share a batch: means over parts, weighted by their totals.
    columns = arguments(20)
    parts = [[column[rows] for column in columns] for rows in (slice(6), slice(6, 20))]
    totals = [part[-1].sum() for part in parts]
    mean = sum(loss(*p) * t for p, t in zip(parts, totals, strict=True)) / sum(totals)
    assert mean.item() == pytest.approx(loss(*columns).item(), rel=1e-5)


@every_loss
def test_a_wrong_shape_is_refused(loss, arguments):
    columns = arguments(6)
    for wrong in range(len(columns)):
        short = [c[:-1] if i == wrong else c for i, c in enumerate(columns)]
        with pytest.raises(TypeCheckError):
            loss(*short)


@every_distillation
def test_the_order_of_the_creatives_has_no_say(loss):
    student, teacher, mask = normal(20, 3), normal(20, 3), mask_of(20)
    order = torch.tensor([2, 0, 1])
    weight = weight_of(20)
    plain = loss(student, teacher, mask, weight)
    shuffled = loss(student[:, order], teacher[:, order], mask[:, order], weight)
    assert shuffled.item() == pytest.approx(plain.item(), rel=1e-5)


@every_distillation
def test_a_student_that_is_its_teacher_cannot_pay_less(loss):
    # Shares of probability and probabilities are matched by the same logits; soft
    # labels of temperature 1 too; ranks only by their own logarithms.
    teacher, weight = normal(20, 3), weight_of(20)
    student = teacher.clone().requires_grad_()
    if loss is losses.rank_label_loss:
        rank = teacher.argsort(-1, descending=True).argsort(-1) + 1.0
        student = (-rank.log()).requires_grad_()
    loss(student, teacher, torch.ones(20, 3).bool(), weight).backward()
    assert student.grad is not None
    assert student.grad.abs().max().item() == pytest.approx(0, abs=1e-6)
