"""What every figure over rows promises, whatever it measures."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from cacs_ray.metrics import creative, off_policy, ranking

NUM_ROWS = 60

# Figure and the columns it reads, the weight last.
FIGURES = {
    "auc": (ranking.auc, ("label", "score")),
    "gauc": (ranking.gauc, ("label", "score", "group")),
    "log_loss": (ranking.log_loss, ("label", "chance")),
    "normalised_entropy": (ranking.normalised_entropy, ("label", "chance")),
    "calibration": (lambda *a: ranking.calibration(*a).ratio, ("label", "chance")),
    "ece": (lambda *a: ranking.calibration(*a).ece, ("label", "chance")),
    "sctr": (creative.sctr, ("label", "match")),
    "nsctr": (lambda *a: creative.nsctr(*a).value, ("label", "match", "group")),
    "coverage": (lambda *a: creative.nsctr(*a).coverage, ("label", "match", "group")),
    "ips": (off_policy.ips, ("label", "importance")),
    "snips": (off_policy.snips, ("label", "importance")),
    "dr": (
        lambda label, rho, target, shown, weight: off_policy.dr(
            label, rho, weight, target, shown
        ),
        ("label", "importance", "chance", "match"),
    ),
}
every_figure = pytest.mark.parametrize(
    ("figure", "names"), FIGURES.values(), ids=FIGURES
)


def columns(names):
    """Rows with ties, of four groups, the weight last."""
    rng = np.random.default_rng(0)
    rows = {
        "label": rng.integers(0, 2, NUM_ROWS),
        "score": np.round(rng.normal(size=NUM_ROWS), 1),
        "chance": np.round(rng.uniform(0.05, 0.95, NUM_ROWS), 1),
        "match": np.round(rng.random(NUM_ROWS), 1),
        "importance": np.round(rng.exponential(size=NUM_ROWS), 1),
        "group": rng.integers(0, 4, NUM_ROWS),
        "weight": rng.integers(0, 5, NUM_ROWS).astype(float),
    }
    return [rows[name] for name in (*names, "weight")]


@every_figure
def test_the_order_of_the_rows_has_no_say(figure, names):
    order = np.random.default_rng(1).permutation(NUM_ROWS)
    shuffled = figure(*[column[order] for column in columns(names)])
    assert shuffled == pytest.approx(figure(*columns(names)), abs=1e-12)


@every_figure
def test_a_weight_is_that_many_equal_rows_and_zero_is_none(figure, names):
    *rows, weight = columns(names)
    times = weight.astype(int)
    repeated = [np.repeat(column, times) for column in rows]
    alone = figure(*repeated, np.ones(times.sum()))
    assert alone == pytest.approx(figure(*rows, weight), abs=1e-12)


@every_figure
def test_only_the_shares_of_the_weights_count(figure, names):
    *rows, weight = columns(names)
    tenfold = figure(*rows, 10 * weight)
    assert tenfold == pytest.approx(figure(*rows, weight), abs=1e-12)


@every_figure
def test_a_click_may_be_true_or_one(figure, names):
    label, *rest = columns(names)
    assert figure(label.astype(bool), *rest) == figure(label.astype(float), *rest)


@every_figure
def test_without_rows_there_is_no_figure(figure, names):
    assert np.isnan(figure(*[column[:0] for column in columns(names)]))


@every_figure
def test_a_wrong_shape_is_refused(figure, names):
    whole = columns(names)
    for wrong in range(len(whole)):
        short = [c[:-1] if i == wrong else c for i, c in enumerate(whole)]
        with pytest.raises(TypeCheckError):
            figure(*short)


@pytest.mark.parametrize("of", ["auc", "gauc"])
def test_a_figure_of_order_reads_nothing_but_the_order(of):
    figure, names = FIGURES[of]
    label, score, *rest = columns(names)
    assert figure(label, np.exp(3 * score) - 7, *rest) == figure(label, score, *rest)


@pytest.mark.parametrize("of", ["auc", "gauc"])
def test_the_order_upside_down_is_the_complement(of):
    figure, names = FIGURES[of]
    label, score, *rest = columns(names)
    down = figure(label, -score, *rest)
    assert down == pytest.approx(1 - figure(label, score, *rest))
