"""Coins that fall alike wherever they are thrown.

A coin depends on the throw of the step and on the row it is for, never on who
throws it or what else is thrown: however many workers share a batch, a creative is
dropped by all of them or by none, and a resumed run throws as the first one did.

    K  rows
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cacs_ray.features.batch import ROW, FeatureTensors


def row_numbers(features: FeatureTensors, num_rows: int) -> Int[Tensor, " K"]:
    """Return what names each row in the whole log; its place where nothing does."""
    numbers = features.get(ROW)
    return torch.arange(num_rows) if numbers is None else numbers


def next_throw() -> int:
    """Return a number from torch's generator: the same after the same seed."""
    return int(torch.randint(0, 2**62, (1,)).item())


def coins(rows: Int[Tensor, " K"], throw: int) -> Float[Tensor, " K"]:
    """Return a uniform number in [0, 1) for each row.

    Args:
        rows: what names each row.
        throw: which throw it is, from `next_throw`.

    >>> twice = coins(torch.tensor([5, 5, 6]), 1)
    >>> bool(twice[0] == twice[1]), bool(twice[1] == twice[2])
    (True, False)

    Source: the finaliser of SplitMix64 (Steele et al., "Fast Splittable
    Pseudorandom Number Generators", OOPSLA 2014) as a hash of row and throw.
    """
    mixed = rows.long() * _signed(0x9E3779B97F4A7C15) + _signed(throw * 2 + 1)
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    mixed = mixed ^ _shifted(mixed, 31)
    # As many bits as a float32 holds, so that 1 is never reached.
    return (_shifted(mixed, 40)).float() * 2.0**-24


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Shift right as unsigned numbers do."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """Return the int64 with the bits of an unsigned number."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value
