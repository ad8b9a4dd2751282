"""How large what is looked up for one request may be."""

from typing import Final

from cacs_ray.decision.candidates import Candidates
from cacs_ray.errors import InputError
from serve.api import MAX_CREATIVES

MAX_LIST_CELLS: Final = 250_000
"""Ads times the longest list of creatives. Lists are padded to one length, and the
selector gathers a vector for each cell: 64 MB of 64 numbers."""


def check_lists(candidates: Candidates) -> None:
    """Refuse what has too many creatives, or one list that makes all too long.

    Raises:
        InputError: more live creatives than `MAX_CREATIVES`, or more cells than
            `MAX_LIST_CELLS`.
    """
    num_ads, longest = candidates.creative_lists.shape
    if candidates.mask.sum() > MAX_CREATIVES:
        raise InputError(
            f"the ads have more than {MAX_CREATIVES} live creatives together",
            field="candidates",
            rule="too_many_creatives",
        )
    if num_ads * longest > MAX_LIST_CELLS:
        raise InputError(
            f"{num_ads} ads x {longest} live creatives of the ad with the most = "
            f"{num_ads * longest}, more than {MAX_LIST_CELLS}; ask for it with fewer "
            "ads, or for fewer of its creatives",
            field="candidates",
            rule="too_long_lists",
        )
