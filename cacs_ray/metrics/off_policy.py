"""What a target policy would have earned, from the log of another policy.

    N  impressions of a log

The unit of action is the creative of an ad that was shown: propensity is
P(creative | ad, request). An impression exists only because its ad also won its
slot, so these figures value "another creative on the ads that were shown"; they do
not see the change in which ads win. Where logging explores and the ad's rank
depends on the explored creative, that gap is a bias, and only decisions of all
candidates could close it.

`importance` is P_target(shown creative) / propensity, >= 0, 0 where the target
would have chosen otherwise. `weight` counts impressions.

Source: Swaminathan & Joachims, "The Self-Normalized Estimator for Counterfactual
Learning", NeurIPS 2015; Dudik et al., "Doubly Robust Policy Evaluation and
Learning", ICML 2011.
"""

import numpy as np
from jaxtyping import Float, Shaped

Rows = Float[np.ndarray, " N"]


def ips(label: Shaped[np.ndarray, " N"], importance: Rows, weight: Rows) -> float:
    """Inverse propensity score: mean of importance x label.

    Unbiased with support and true propensities; may leave [0, 1]. NaN without rows.

    >>> ips(np.array([1, 0]), np.array([2.0, 0.0]), np.ones(2))
    1.0
    """
    return _ratio(float(weight @ (importance * label)), float(weight.sum()))


def snips(label: Shaped[np.ndarray, " N"], importance: Rows, weight: Rows) -> float:
    """Self-normalised IPS: sum of importance x label over the sum of importance.

    Consistent, stays within the labels, usually tighter than IPS. NaN when nothing
    matches.

    >>> snips(np.array([1, 0, 0]), np.array([2.0, 2.0, 0.0]), np.ones(3))
    0.5
    """
    mass = weight * importance
    return _ratio(float(mass @ label), float(mass.sum()))


def dr(
    label: Shaped[np.ndarray, " N"],
    importance: Rows,
    weight: Rows,
    model_target: Rows,
    model_shown: Rows,
) -> float:
    """Doubly robust: the model's value of the target, corrected where it was seen.

    Right when either the propensities or the model are right.

    Args:
        label: 1 or True for a click.
        importance: P_target(shown) / propensity.
        weight: impressions per row.
        model_target: modelled CTR under the target, sum of P_target(c) q(c).
        model_shown: modelled CTR of the shown creative.

    >>> dr(np.array([1, 0]), np.array([2.0, 0.0]), np.ones(2),
    ...    np.array([0.5, 0.5]), np.array([0.5, 0.5]))
    1.0
    """
    value = model_target + importance * (label - model_shown)
    return _ratio(float(weight @ value), float(weight.sum()))


def effective_sample_size(importance: Rows, weight: Rows) -> float:
    """Impressions that would say as much without weighting (Kish).

    (sum w rho)^2 / sum w rho^2: `weight` counts impressions, it does not thin them.
    0 when nothing matches.

    >>> effective_sample_size(np.array([2.0, 2.0, 0.0]), np.ones(3))
    2.0
    """
    square = float(weight @ importance**2)
    return float(weight @ importance) ** 2 / square if square > 0 else 0.0


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else float("nan")
