"""The choice of one creative per ad, and the probability of that choice.

    A  candidate ads, flat     C  creatives per list, padded     R  requests

A policy is a matrix of probabilities over each list; the choice is one draw from
it. So the propensity that is logged is exact by construction, and evaluation reads
the same matrices. Lists need at least one real creative.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

Scores = Float[np.ndarray, "A C"]
Mask = Bool[np.ndarray, "A C"]
Probabilities = Float[np.ndarray, "A C"]

_NEVER = 1e-12
"""Probability that counts as none."""

THOMPSON_DRAWS = 128
"""Joint posterior draws per list; the smallest propensity is 1 / (129 C)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One creative per ad."""

    index: Int[np.ndarray, " A"]
    """Column of the list."""
    propensity: Float[np.ndarray, " A"]
    """P(this column), in (0, 1]."""


def epsilon_greedy_probabilities(
    scores: Scores, mask: Mask, epsilon: float
) -> Probabilities:
    """Give the best score 1 - epsilon, and epsilon to all creatives alike.

    Args:
        scores: an order inside each list; padding may hold anything.
        mask: True for a real creative.
        epsilon: share of uniform choice, in [0, 1].

    Returns:
        float64 rows that sum to one; ties go to the lowest index.

    Raises:
        ValueError: `epsilon` is outside [0, 1].

    >>> epsilon_greedy_probabilities(np.array([[1.0, 3.0]]),
    ...                              np.array([[True, True]]), 0.5)
    array([[0.25, 0.75]])
    """
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon must lie in [0, 1], got {epsilon}")
    probabilities = (
        epsilon * uniform_probabilities(mask) if epsilon else np.zeros(mask.shape)
    )
    # NaN-free padding: argmax would otherwise return the place of a NaN.
    best = np.where(mask, scores, -np.inf).argmax(1)
    probabilities[np.arange(len(best)), best] += 1 - epsilon
    return probabilities


def uniform_probabilities(mask: Mask) -> Probabilities:
    """Give every real creative of a list the same probability.

    >>> uniform_probabilities(np.array([[True, True, False]]))
    array([[0.5, 0.5, 0. ]])
    """
    share: np.ndarray = mask / np.maximum(mask.sum(1, keepdims=True), 1)
    return share


def smoothed_ctr(
    clicks: Float[np.ndarray, "*S"],
    impressions: Float[np.ndarray, "*S"],
    prior: tuple[float, float],
) -> Float[np.ndarray, "*S"]:
    """Posterior mean CTR, (clicks + alpha) / (impressions + alpha + beta).

    >>> smoothed_ctr(np.array([[1.0, 0.0]]), np.array([[8.0, 0.0]]), (1.0, 1.0))
    array([[0.2, 0.5]])
    """
    alpha, beta = prior
    rate: np.ndarray = (clicks + alpha) / (impressions + alpha + beta)
    return rate


def list_mean(values: Float[np.ndarray, "A C"], mask: Mask) -> Float[np.ndarray, " A"]:
    """Mean over the real creatives of each list; 0 for a list without any.

    >>> mask = np.array([[True, True, False]])
    >>> list_mean(np.array([[1.0, 3.0, np.nan]]), mask)
    array([2.])
    """
    mean: np.ndarray = np.where(mask, values, 0.0).sum(1) / np.maximum(mask.sum(1), 1)
    return mean


def moved_by_standout(
    ctr: Float[np.ndarray, " A"],
    score: Float[np.ndarray, " A"],
    scores: Scores,
    mask: Mask,
) -> Float[np.ndarray, " A"]:
    r"""CTR of the chosen creatives, from what their ads get with a mean one.

    .. math:: \sigma\bigl(\mathrm{logit}\, p + s - \bar{s}\bigr)

    Args:
        ctr: of each ad with a mean creative, in (0, 1).
        score: of the chosen creative; NaN for a pin from outside the list, which
            has no score, hence no correction.
        scores: click logits up to a constant of each list.
        mask: True for a real creative.

    >>> ctr, mask = np.array([0.5, 0.5]), np.ones((2, 2), bool)
    >>> scores = np.array([[0.0, 2.0], [0.0, 2.0]])
    >>> moved_by_standout(ctr, np.array([2.0, np.nan]), scores, mask).round(3)
    array([0.731, 0.5  ])
    """
    standout = np.nan_to_num(score - list_mean(scores, mask), nan=0.0)
    moved: np.ndarray = special.expit(special.logit(ctr) + standout)
    return moved


def content_prior(
    scores: Scores, mask: Mask, prior: tuple[float, float]
) -> tuple[Scores, Scores]:
    r"""Give each creative a Beta prior of its own, moved by how far it stands out.

    .. math::
        m_c = \sigma\bigl(\mathrm{logit}\tfrac{\alpha}{\alpha+\beta}
              + s_c - \bar{s}\bigr), \qquad
        (\alpha_c, \beta_c) = (\alpha+\beta)\,(m_c, 1-m_c)

    The selector's scores follow a creative's content where its identity is not
    known, so a new creative starts from what its picture and title promise instead
    of from the mean of all; its strength stays that of the fitted prior.

    Args:
        scores: click logits up to a constant of each list, of real creatives.
        mask: True for a real creative.
        prior: (alpha, beta) > 0, fitted on training.

    Returns:
        (alpha, beta), float64 [A, C].

    >>> alpha, beta = content_prior(np.array([[0.0, 0.0]]), np.ones((1, 2), bool),
    ...                             (1.0, 19.0))
    >>> alpha.round(6).tolist(), beta.round(6).tolist()
    ([[1.0, 1.0]], [[19.0, 19.0]])
    """
    strength = prior[0] + prior[1]
    real = np.where(mask, scores, 0.0)
    mean = list_mean(scores, mask)[:, None]
    rate = special.expit(special.logit(prior[0] / strength) + real - mean)
    # A Beta needs both of its parameters to be positive.
    rate = np.clip(rate, 1e-6, 1 - 1e-6)
    return strength * rate, strength * (1 - rate)


def thompson_probabilities(
    clicks: Scores,
    impressions: Scores,
    mask: Mask,
    prior: tuple[float | Scores, float | Scores],
    rng: np.random.Generator,
) -> Probabilities:
    """Estimate for each creative the probability that its CTR is the highest.

    `THOMPSON_DRAWS` joint draws from the Beta posteriors vote for their best
    creative; one further vote is shared by all alike. Without it a creative that
    never won would have probability 0 and the log no support for it.

    Args:
        clicks: clicks of each creative so far.
        impressions: impressions of each creative so far, >= clicks.
        mask: True for a real creative.
        prior: (alpha, beta) > 0 of the Beta prior, for all alike or one each.
        rng: source of the draws; they do not depend on the padding.

    Returns:
        Rows that sum to one, positive for every real creative.

    >>> won = np.array([[900.0, 1.0, 0.0]]), np.array([[1000.0, 1000.0, 0.0]])
    >>> real = np.array([[True, True, False]])
    >>> rng = np.random.default_rng(0)
    >>> thompson_probabilities(*won, real, (1.0, 19.0), rng).round(3)
    array([[0.996, 0.004, 0.   ]])
    """
    alpha, beta = (np.broadcast_to(one, mask.shape) for one in prior)
    posterior = (alpha + clicks)[mask], (beta + impressions - clicks)[mask]
    draws = np.full((THOMPSON_DRAWS, *mask.shape), -np.inf)
    draws[:, mask] = rng.beta(*posterior, size=(THOMPSON_DRAWS, len(posterior[0])))
    best = draws.argmax(2)
    wins = (best[:, :, None] == np.arange(mask.shape[1])).sum(0)
    votes: np.ndarray = (wins + uniform_probabilities(mask)) / (THOMPSON_DRAWS + 1)
    return votes


def cap_exploration(
    probabilities: Probabilities, max_exploration: Float[np.ndarray, " A"]
) -> Probabilities:
    """Bound what goes to other creatives than the likeliest one of each list.

    The others keep their proportions; the rest goes to the likeliest, ties to the
    lowest index.

    Args:
        probabilities: rows that sum to one; 0 for padding.
        max_exploration: bound of each row, in [0, 1].

    >>> cap_exploration(np.array([[0.5, 0.3, 0.2]]), np.array([0.1]))
    array([[0.9 , 0.06, 0.04]])
    """
    rows, best = np.arange(len(probabilities)), probabilities.argmax(1)
    others = 1 - probabilities[rows, best]
    bound = np.minimum(others, max_exploration)
    shrink = np.divide(bound, others, out=np.ones_like(others), where=others > 0)
    capped: np.ndarray = probabilities * shrink[:, None]
    capped[rows, best] = 1 - bound
    return capped


def cap_shares(
    probabilities: Probabilities, max_share: Float[np.ndarray, "A C"], mask: Mask
) -> Probabilities:
    """Bound the probability of each creative; the excess goes to the others.

    What a capped creative loses is shared among those below their bound, in
    proportion to their probabilities, and equally where these are all zero. Bounds
    that together leave less than one are widened alike until they do.

    Args:
        probabilities: rows that sum to one; 0 for padding.
        max_share: bounds in (0, 1]; padding may hold anything.
        mask: True for a real creative.

    Returns:
        Rows that sum to one, each at most its (widened) bound.

    >>> real = np.ones((1, 3), bool)
    >>> cap_shares(np.array([[0.8, 0.1, 0.1]]), np.array([[0.5, 1.0, 1.0]]), real)
    array([[0.5 , 0.25, 0.25]])
    """
    bounds = np.where(mask, max_share, 0.0)
    bounds = bounds / np.minimum(bounds.sum(1, keepdims=True), 1.0)
    capped = probabilities.copy()
    # Each pass fills one creative to its bound, or there is nothing left over.
    for _ in range(capped.shape[1]):
        excess = np.maximum(capped - bounds, 0.0).sum(1, keepdims=True)
        if not (excess > _NEVER).any():
            break
        capped = np.minimum(capped, bounds)
        has_room = bounds - capped > 1e-15
        weights = np.where(has_room, capped, 0.0)
        # Probabilities that no draw would ever meet give no proportions.
        is_zero = weights.sum(1, keepdims=True) < _NEVER
        weights = np.where(is_zero, has_room, weights)
        total = np.maximum(weights.sum(1, keepdims=True), 1e-300)
        capped = capped + excess * weights / total
    return capped


def draw_choice(
    probabilities: Probabilities, uniforms: Float[np.ndarray, " A"]
) -> Choice:
    """Draw one column per row with these probabilities.

    Args:
        probabilities: rows that sum to one; 0 for padding.
        uniforms: one number in [0, 1) per row.

    >>> draw_choice(np.array([[0.25, 0.75]]), np.array([0.5]))
    Choice(index=array([1]), propensity=array([0.75]))
    """
    heights = probabilities.cumsum(1)
    # Scaled by the last height: a sum of 1 - 1e-16 must not lead past the end.
    index = (heights <= uniforms[:, None] * heights[:, -1:]).sum(1)
    return Choice(index, probabilities[np.arange(len(index)), index])


def epsilon_greedy(
    scores: Scores, mask: Mask, *, epsilon: float, uniforms: Float[np.ndarray, " A"]
) -> Choice:
    """Choose by `epsilon_greedy_probabilities`, one uniform number per ad."""
    return draw_choice(epsilon_greedy_probabilities(scores, mask, epsilon), uniforms)


def request_generators(
    request_ids: Sequence[str], *, purpose: str
) -> list[np.random.Generator]:
    """Return one generator per request, seeded by its id and the purpose alone.

    A decision then depends on nothing but its own request: a replay, another batch
    or another replica repeats the choice and its propensity. Draws for different
    purposes (at most 16 bytes of name) are independent of each other.

    >>> one, again = request_generators(["q1", "q1"], purpose="choice")
    >>> one.random() == again.random()
    True
    """
    person = purpose.encode()
    return [
        np.random.default_rng(int.from_bytes(_digest(request_id, person), "little"))
        for request_id in request_ids
    ]


def _digest(request_id: str, person: bytes) -> bytes:
    # An id from outside may hold a lone surrogate; it must not stop a decision.
    text = request_id.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16, person=person).digest()
