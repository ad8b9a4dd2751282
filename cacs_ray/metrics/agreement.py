"""How well the selector's order inside a list follows the teacher's.

    N  lists, one per row     C  creatives per list, padded

Each function gives one figure per list, NaN where a list has no choice (fewer
than two creatives); a mean over lists is the caller's, with its weights.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

Lists = Float[np.ndarray, "N C"]
Mask = Bool[np.ndarray, "N C"]
PerList = Float[np.ndarray, " N"]

_PAIRS_AT_ONCE = 4_000_000
"""Pairs of creatives compared at once; bounds memory to some ten megabytes."""


def top1_agreement(student: Lists, teacher: Lists, mask: Mask) -> PerList:
    """1 where both put the same creative first, else 0; ties go to the lowest.

    >>> top1_agreement(np.array([[1.0, 2.0]]), np.array([[0.0, 3.0]]),
    ...                np.array([[True, True]]))
    array([1.])
    """
    first = [np.where(mask, scores, -np.inf).argmax(1) for scores in (student, teacher)]
    return _without_choice(mask, (first[0] == first[1]).astype(np.float64))


def kendall_tau(student: Lists, teacher: Lists, mask: Mask) -> PerList:
    """Kendall's tau-b inside each list: 1 same order, -1 reversed.

    NaN also where one side ties all creatives, because it states no order.

    >>> kendall_tau(np.array([[1.0, 2.0]]), np.array([[5.0, 3.0]]),
    ...             np.array([[True, True]]))
    array([-1.])
    """
    return _by_blocks(_tau_of_block, student, teacher, mask)


def ndcg(student: Lists, teacher: Lists, mask: Mask) -> PerList:
    """Discounted gain of the student's order over the teacher's own.

    The gain of a creative is its soft label, softmax of the teacher's logits
    inside the list. Tied students share the mean discount of their places, as in
    scikit-learn's `ndcg_score`.

    >>> ndcg(np.array([[1.0, 2.0]]), np.array([[0.0, 3.0]]),
    ...      np.array([[True, True]]))
    array([1.])
    """
    return _by_blocks(_ndcg_of_block, student, teacher, mask)


def _tau_of_block(student: Lists, teacher: Lists, mask: Mask) -> PerList:
    real = mask[:, :, None] & mask[:, None, :]
    signs = [
        np.where(real, np.sign(scores[:, :, None] - scores[:, None, :]), 0.0)
        for scores in (student, teacher)
    ]
    concordance = (signs[0] * signs[1]).sum((1, 2))
    untied = [np.abs(sign).sum((1, 2)) for sign in signs]
    with np.errstate(invalid="ignore"):
        tau: np.ndarray = concordance / np.sqrt(untied[0] * untied[1])
    return tau


def _ndcg_of_block(student: Lists, teacher: Lists, mask: Mask) -> PerList:
    level = np.where(mask, teacher, -np.inf).max(1, keepdims=True)
    # A list without a real creative has no level; it becomes NaN further up.
    level = np.where(np.isfinite(level), level, 0.0)
    gain = np.where(mask, np.exp(np.where(mask, teacher, 0.0) - level), 0.0)
    best = _discounted_gain(teacher, gain, mask)
    with np.errstate(invalid="ignore"):
        share: np.ndarray = _discounted_gain(student, gain, mask) / best
    return share


def _discounted_gain(scores: Lists, gain: Lists, mask: Mask) -> PerList:
    """Sum of gain x discount of the place, ties sharing their mean discount."""
    width = scores.shape[1]
    discounts = np.append(0.0, np.cumsum(1 / np.log2(np.arange(2, width + 2))))
    rivals = mask[:, None, :]
    above = ((scores[:, None, :] > scores[:, :, None]) & rivals).sum(2)
    equal = ((scores[:, None, :] == scores[:, :, None]) & rivals).sum(2)
    equal = np.maximum(equal, 1)
    discount = np.where(
        mask,
        (discounts[np.minimum(above + equal, width)] - discounts[above]) / equal,
        0.0,
    )
    total: np.ndarray = (gain * discount).sum(1)
    return total


def _by_blocks(
    figure: Callable[[Lists, Lists, Mask], PerList],
    student: Lists,
    teacher: Lists,
    mask: Mask,
) -> PerList:
    """Apply a pairwise figure to blocks of lists, so that memory stays bounded."""
    # Padding may hold anything, NaN included; it must not reach a comparison.
    student, teacher = (np.where(mask, s, 0.0) for s in (student, teacher))
    rows = max(1, _PAIRS_AT_ONCE // max(1, mask.shape[1] ** 2))
    blocks = [
        figure(student[i : i + rows], teacher[i : i + rows], mask[i : i + rows])
        for i in range(0, len(mask), rows)
    ]
    values = np.concatenate(blocks) if blocks else np.zeros(0)
    return _without_choice(mask, values.astype(np.float64))


def _without_choice(mask: Mask, values: PerList) -> PerList:
    return np.where(mask.sum(1) >= 2, values, np.nan)
