"""What a decision starts from and what it leaves: plain arrays, no models.

    R requests   A candidate ads of all requests, flat   C creatives per list

Creatives are rows of the catalogue; row 0 is blank and marks padding.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Candidates:
    """The candidate ads of one or many requests."""

    request_ids: tuple[str, ...]
    """R request ids; they seed the randomness of the choice."""
    request_index: np.ndarray
    """int32 [A]: which request each ad is a candidate of; non-decreasing."""
    ad_ids: tuple[str, ...]
    """A ad ids."""
    bid_micros: np.ndarray
    """int64 [A], > 0"""
    creative_lists: np.ndarray
    """int32 [A, C]: catalogue rows that may be shown, left-aligned, 0 = padding.
    At least one per ad."""
    pinned: np.ndarray
    """int32 [A]: the catalogue row that must be shown, or 0."""
    max_share: np.ndarray | None = None
    """float64 [A, C]: bound of each creative's probability, in (0, 1]; None = 1."""
    max_exploration: np.ndarray | None = None
    """float64 [A]: bound of the probability of another creative than the best one;
    None = 1."""

    @property
    def mask(self) -> np.ndarray:
        """Bool [A, C]: True for a real creative."""
        real: np.ndarray = self.creative_lists > 0
        return real


@dataclass(frozen=True, slots=True)
class Decisions:
    """One decision per candidate ad, in the order of the candidates."""

    creative_row: np.ndarray
    """int32 [A]: catalogue row of the chosen creative."""
    propensity: np.ndarray
    """float64 [A]: P(creative | ad, request) of this choice, in (0, 1]."""
    selector_score: np.ndarray
    """float64 [A]: score of the chosen creative, an order inside one ad; NaN when
    the policy has none."""
    pctr: np.ndarray
    """float64 [A]: calibrated click probability in slot 0."""
    ecpm_micros: np.ndarray
    """float64 [A]: 1000 x pctr x bid_micros."""
    slot: np.ndarray
    """int32 [A]: place on the page, -1 = not shown."""
    price_micros: np.ndarray
    """int64 [A]: price per click, 0 = not shown."""
    list_scores: np.ndarray | None = None
    """float64 [A, C]: the scores that the choice was made from; NaN for padding."""
    list_probabilities: np.ndarray | None = None
    """float64 [A, C]: P(creative | ad, request) of every creative of the list; a
    pinned creative has 1, if it is of the list."""


def no_decisions() -> Decisions:
    """Return what is decided about no candidates at all."""
    rows, floats = np.zeros(0, np.int32), np.zeros(0)
    return Decisions(rows, floats, floats, floats, floats, rows, np.zeros(0, np.int64))


class Scorers(Protocol):
    """What `decide` asks of models; local ones or handles of remote ones."""

    async def selector_scores(self, candidates: Candidates) -> np.ndarray:
        """Float [A, C]: the student's order inside each list."""
        ...

    async def teacher_scores(self, candidates: Candidates) -> np.ndarray:
        """Float [A, C]: the teacher's logit of every creative of every ad."""
        ...

    async def pctr(
        self, candidates: Candidates, creative_row: np.ndarray
    ) -> np.ndarray:
        """Return float [A]: calibrated CTR of each ad shown with this creative.

        Creative row 0 asks for the CTR of the ad while its creative is not known.
        """
        ...

    async def counts(self, candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
        """(clicks, impressions), float [A, C], as of the end of training."""
        ...

    def prior(self) -> tuple[float, float]:
        """Beta prior (alpha, beta) of a creative's CTR, fitted on training."""
        ...
