"""Who is shown where and what a click costs: generalised second price.

    A  candidate ads of all requests, flat     R  requests

Many requests are settled at once; `request_index` says which ad belongs to which.
Money is micros.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

PerAd = Float[np.ndarray, " A"]


@dataclass(frozen=True, slots=True)
class Allocation:
    """The outcome of the auctions, one row per candidate ad."""

    ecpm_micros: PerAd
    """1000 x pctr x bid."""
    slot: Int[np.ndarray, " A"]
    """0 is the best place; -1 = not shown."""
    price_micros: Int[np.ndarray, " A"]
    """Price per click; 0 = not shown."""


def allocate_slots(
    request_index: Int[np.ndarray, " A"],
    pctr: PerAd,
    bid_micros: Int[np.ndarray, " A"],
    *,
    num_slots: int,
    reserve_micros: int = 1,
) -> Allocation:
    r"""Rank the ads of each request by eCPM and price them by the next one.

    .. math::
        \mathrm{price}_i = \Big\lceil
            \frac{\mathrm{eCPM}_{i+1}}{1000\,\mathrm{pctr}_i} \Big\rceil

    at least the reserve and never above the own bid. An ad that bids less than the
    reserve takes no part; without a next ad the reserve is paid.

    Args:
        request_index: request of each ad, non-decreasing.
        pctr: click probability in slot 0, in [0, 1].
        bid_micros: what a click may cost, > 0.
        num_slots: places per request, >= 1.
        reserve_micros: least price of a click, >= 1.

    Returns:
        The allocation, in the order of the candidates; ties go to the earlier one.

    >>> two_ads = np.array([0, 0]), np.array([0.02, 0.01]), np.array([100, 100])
    >>> settled = allocate_slots(*two_ads, num_slots=1)
    >>> settled.slot.tolist(), settled.price_micros.tolist()
    ([0, -1], [50, 0])
    """
    size = len(pctr)
    ecpm = 1000.0 * pctr * bid_micros
    takes_part = bid_micros >= reserve_micros
    # Ads that take no part come last, so they set no price. lexsort is stable.
    order = np.lexsort((-ecpm, ~takes_part, request_index))
    ranked_request = request_index[order]
    first = np.searchsorted(ranked_request, ranked_request, side="left")
    rank = np.arange(size) - first

    next_ecpm = np.zeros(size)
    has_next = (ranked_request[1:] == ranked_request[:-1]) & takes_part[order][1:]
    next_ecpm[:-1] = np.where(has_next, ecpm[order][1:], 0.0)
    wins = (rank < num_slots) & takes_part[order]
    price = _second_price(next_ecpm, pctr[order])
    # The quotient may end a hair above the bid that it equals.
    price = np.minimum(np.maximum(price, reserve_micros), bid_micros[order])

    slot = np.full(size, -1, np.int32)
    price_micros = np.zeros(size, np.int64)
    slot[order] = np.where(wins, rank, -1)
    price_micros[order] = np.where(wins, price, 0)
    return Allocation(ecpm, slot, price_micros)


def _second_price(next_ecpm: np.ndarray, pctr: np.ndarray) -> np.ndarray:
    """Smallest whole price that still beats the next ad; 0 where there is none."""
    price = np.divide(
        next_ecpm, 1000.0 * pctr, out=np.zeros_like(next_ecpm), where=pctr > 0
    )
    whole: np.ndarray = np.ceil(price)
    return whole
