"""What coins promise."""

import pytest
import torch

from cacs_ray.models.coins import coins, next_throw, row_numbers


def test_a_coin_does_not_depend_on_what_else_is_thrown():
    rows = torch.arange(1000)
    together = coins(rows, 7)
    half = coins(rows[::2].flip(0), 7)
    assert torch.equal(half, together[::2].flip(0))


def test_coins_are_uniform_and_throws_are_independent():
    rows = torch.arange(100_000)
    first, second = coins(rows, 1), coins(rows, 2)
    assert first.min() >= 0
    assert first.max() < 1
    assert first.mean().item() == pytest.approx(0.5, abs=0.005)
    assert first.var().item() == pytest.approx(1 / 12, abs=0.002)
    both = torch.stack([first, second])
    assert abs(torch.corrcoef(both)[0, 1].item()) < 0.02
    neighbours = torch.stack([first[:-1], first[1:]])
    assert abs(torch.corrcoef(neighbours)[0, 1].item()) < 0.02


def test_the_same_seed_throws_the_same():
    throws = []
    for _ in range(2):
        torch.manual_seed(3)
        throws.append((next_throw(), next_throw()))
    assert throws[0] == throws[1]
    assert throws[0][0] != throws[0][1]


def test_rows_without_a_number_are_named_by_their_place():
    assert row_numbers({}, 3).tolist() == [0, 1, 2]
    assert row_numbers({"row": torch.tensor([8, 9])}, 2).tolist() == [8, 9]
