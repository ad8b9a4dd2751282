"""The click loss, and what it promises when negatives count less."""

from math import exp, log, log1p

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cacs_ray import losses

# Three clicks and a fourth of a click among 52 impressions.
CLICKS = torch.tensor([1.0, 0.0, 0.0, 0.25], dtype=torch.float64)
IMPRESSIONS = torch.tensor([3.0, 40.0, 1.0, 8.0], dtype=torch.float64)
CTR = (3 * 1 + 8 * 0.25) / 52

each_weight = pytest.mark.parametrize("negative_weight", [1.0, 0.5, 0.1, 0.01])


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def cost_of_constant(logit: float | Tensor, negative_weight: float) -> Tensor:
    """Cost of one logit for all rows above."""
    logits = torch.as_tensor(logit, dtype=torch.float64).expand(4)
    return losses.click_loss(
        logits, CLICKS, IMPRESSIONS, negative_weight=negative_weight
    )


def test_click_loss_is_the_weighted_log_loss():
    logits, label = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0])
    expected = -(3 * log(sigmoid(2)) + 1 * log(sigmoid(-1))) / 4

    actual = losses.click_loss(logits, label, torch.tensor([3.0, 1.0]))

    assert actual.item() == pytest.approx(expected)


def test_negatives_of_full_weight_cost_what_they_always_did():
    logits, label, weight = torch.randn(50), torch.rand(50).round(), torch.rand(50)
    plain = functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
    expected = (plain * weight).sum() / weight.sum()
    assert torch.equal(losses.click_loss(logits, label, weight), expected)
    at_one = losses.click_loss(logits, label, weight, negative_weight=1.0)
    assert torch.equal(at_one, expected)


def test_negatives_count_less_at_a_logit_that_is_moved():
    # 2 less log(1/4) for a click, -1 less log(1/4) for none, over 3 + 5 impressions.
    logits, weight = torch.tensor([2.0, -1.0]), torch.tensor([3.0, 5.0])
    clicked, not_clicked = sigmoid(2 + log(4)), sigmoid(-1 + log(4))
    expected = -(3 * log(clicked) + 5 / 4 * log(1 - not_clicked)) / 8

    actual = losses.click_loss(
        logits, torch.tensor([1.0, 0.0]), weight, negative_weight=0.25
    )

    assert actual.item() == pytest.approx(expected)


@each_weight
def test_the_cheapest_constant_is_the_ctr_whatever_negatives_count(negative_weight):
    logit = torch.tensor(log(CTR) - log1p(-CTR), dtype=torch.float64)
    logit.requires_grad_()
    cost = cost_of_constant(logit, negative_weight)
    cost.backward()
    assert logit.grad is not None
    assert logit.grad.item() == pytest.approx(0, abs=1e-12)
    for step in (-0.1, 0.1):
        assert cost_of_constant(logit.detach() + step, negative_weight) > cost


@each_weight
def test_the_gradient_is_that_of_small_differences(negative_weight):
    def cost(logits: Tensor) -> Tensor:
        return losses.click_loss(
            logits, CLICKS, IMPRESSIONS, negative_weight=negative_weight
        )

    logits = torch.tensor([-4.0, 0.3, 25.0, -25.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(cost, logits.requires_grad_())


@each_weight
def test_a_click_pulls_no_more_than_its_row(negative_weight):
    logits = torch.tensor([-30.0, 30.0, 30.0, -30.0]).requires_grad_()
    loss = losses.click_loss(
        logits, CLICKS.float(), IMPRESSIONS.float(), negative_weight=negative_weight
    )
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad.abs() <= IMPRESSIONS / 52 + 1e-6).all()


@pytest.mark.parametrize("wrong", [0.0, -0.5, 1.5, float("nan")])
def test_a_weight_of_negatives_outside_its_bounds_is_refused(wrong):
    with pytest.raises(ValueError, match="negative_weight"):
        cost_of_constant(0.0, wrong)
