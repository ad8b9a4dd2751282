"""Figures of units -> means over seeds, with intervals and paired differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from cacs_ray.study.figures import Figures
from cacs_ray.study.plan import FULL

Cell = Mapping[int, Figures]
"""Figures by seed."""


def interval(values: Sequence[float], level: float) -> dict[str, float]:
    """Return the mean with Student's interval; NaN bounds with fewer than two values.

    Values that are NaN are left out.

    >>> interval([1.0, 1.0, 1.0], 0.95)["low"]
    1.0
    """
    known = np.array([v for v in values if np.isfinite(v)], np.float64)
    mean = float(known.mean()) if len(known) else float("nan")
    low = high = float("nan")
    if len(known) >= 2:
        half = stats.sem(known) * stats.t.ppf((1 + level) / 2, len(known) - 1)
        low, high = mean - float(half), mean + float(half)
    return {"value": mean, "low": low, "high": high, "seeds": len(known)}


def summarise(
    cells: Mapping[str, Cell], level: float, *, reference: str = FULL
) -> dict[str, dict[str, Any]]:
    """Summarise the variants of one source.

    Args:
        cells: variant -> seed -> figures.
        level: of the intervals.
        reference: every variant is paired with it, seed by seed.

    Returns:
        variant -> figure -> `value`, `low`, `high`, `seeds` over seeds, and `less`:
        the variant less the reference, likewise, over the seeds that both have.
    """
    table: dict[str, dict[str, Any]] = {}
    for name, cell in cells.items():
        figures = sorted({figure for one in cell.values() for figure in one})
        table[name] = {
            figure: interval([one.get(figure, np.nan) for one in cell.values()], level)
            for figure in figures
        }
        if name == reference or reference not in cells:
            continue
        for figure in figures:
            pairs = [
                cell[seed].get(figure, np.nan)
                - cells[reference][seed].get(figure, np.nan)
                for seed in cell
                if seed in cells[reference]
            ]
            table[name][figure]["less"] = interval(pairs, level)
    return table


def metric_agreement(
    units: Sequence[Mapping[str, Figures]], metrics: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Ask which logged metric orders policies as the truth does.

    Args:
        units: per unit, policy or variant -> figures with `true_ctr` and the metrics.
        metrics: names of logged figures.

    Returns:
        metric -> `rank_correlation` (mean over units of Spearman's rho with
        `true_ctr`), `worst` (its least value), `bias` (mean of metric less truth),
        `policies` (how many were ranked).
    """
    table = {}
    for metric in metrics:
        rhos, biases, sizes = [], [], []
        for unit in units:
            pairs = np.array(
                [
                    (one[metric], one["true_ctr"])
                    for one in unit.values()
                    if np.isfinite(one.get(metric, np.nan)) and "true_ctr" in one
                ]
            )
            if len(pairs) < 3:
                continue
            if np.ptp(pairs, axis=0).min() == 0:
                continue  # where all are alike there is no order to follow
            rhos.append(float(stats.spearmanr(*pairs.T).statistic))
            biases.append(float((pairs[:, 0] - pairs[:, 1]).mean()))
            sizes.append(len(pairs))
        if rhos:
            table[metric] = {
                "rank_correlation": float(np.mean(rhos)),
                "worst": float(np.min(rhos)),
                "bias": float(np.mean(biases)),
                "policies": float(np.mean(sizes)),
            }
    return table
