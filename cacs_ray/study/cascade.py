"""The cascade's own claim: orders of selection and ranking through the auction.

All orders decide the same requests of a market's next day, with one bundle.

    R  requests    A  candidate ads of all requests, flat
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cacs_ray.answers.local import LocalScorers, RankEveryCreative, decide_requests
from cacs_ray.bundle import Predictor
from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.evaluation.scored_log import bucket_of
from cacs_ray.features.context import Context
from cacs_ray.metrics import ranking
from cacs_ray.schema import Column, PolicyName
from cacs_ray.simulation.market import DEVICE, Market
from cacs_ray.simulation.value import resampled_sums, true_value
from cacs_ray.study.figures import calibration_figures

RANK_EVERY: Final = "rank_every"
"""The serving ranker scores every creative of every ad and chooses by it."""

NUM_SLOTS: Final = 3
_Scorers = Callable[[Predictor, Context], LocalScorers]

ORDERS: Final[Mapping[str, tuple[PolicyName, _Scorers]]] = {
    "random": ("random", LocalScorers),
    "popular": ("popular", LocalScorers),
    "post_rank": ("post_rank", LocalScorers),
    "parallel": ("parallel", LocalScorers),
    "cacs": ("cacs", LocalScorers),
    "teacher": ("teacher", LocalScorers),
    RANK_EVERY: ("teacher", RankEveryCreative),
}

PAIRED: Final = ("post_rank", "parallel", "random", "popular", "teacher", RANK_EVERY)
"""What `cacs` is compared with, request by request."""


def cascade_figures(
    predictor: Predictor, market: Market, *, seed: int = 0
) -> dict[str, Any]:
    """Play the next day of a market in every order.

    Args:
        predictor: an open bundle.
        market: click probabilities and the requests.
        seed: of the clicks that are drawn for AUC, and of the bootstrap.

    Returns:
        `orders`: by order `true_ctr`, `rpm` (GSP revenue of 1000 impressions, in
        currency), `ecpm` (true CTR x bid x 1000 of what was shown), `auc` and
        `gauc_request` of pctr over all candidate ads with their chosen creatives,
        `calibration` and `ece` over them, `calibration_shown` over the winners of
        the auction, `calibration/BUCKET` where it can be told;
        `paired`: `cacs` less each other order in `true_ctr` and `rpm`, with the
        95 % interval over requests;
        `regret`: share of eCPM that choosing first loses against `rank_every`, as
        the truth and as the ranker itself values it.
    """
    played = {
        name: _play(predictor, market, policy, scorers)
        for name, (policy, scorers) in ORDERS.items()
    }
    values = {name: true_value(market, table) for name, table in played.items()}
    draws = np.random.default_rng(seed).random(len(played["cacs"]))
    orders = {
        name: {
            "true_ctr": values[name]["true_ctr"]["value"],
            "rpm": values[name]["rpm_micros"]["value"] / 1e6,
            **_ranker_figures(market, predictor, table, draws),
        }
        for name, table in played.items()
    }
    return {
        "orders": orders,
        "paired": {name: _paired(values["cacs"], values[name]) for name in PAIRED},
        "regret": {
            of: 1 - orders["cacs"][of] / orders[RANK_EVERY][of]
            for of in ("ecpm", "predicted_ecpm")
        },
    }


def _play(
    predictor: Predictor, market: Market, policy: PolicyName, scorers: _Scorers
) -> pa.Table:
    settings = DecisionSettings(policy=policy, num_slots=NUM_SLOTS)
    decisions, rejects = decide_requests(predictor, market.requests, settings, scorers)
    if rejects.num_rows:
        raise RuntimeError(f"{rejects.num_rows} of the market's requests are rejected")
    return decisions


def _ranker_figures(
    market: Market, predictor: Predictor, table: pa.Table, draws: np.ndarray
) -> dict[str, float]:
    """Judge the ranker on what one order chose."""
    truth = _true_ctr(market, table, np.zeros(table.num_rows, np.int64))
    predicted = table[Column.PCTR].to_numpy()
    bid = table[Column.BID_MICROS].to_numpy() / 1e6
    is_shown = pc.is_valid(table[Column.SLOT]).to_numpy()
    clicked = (draws < truth).astype(np.float64)
    request = table[Column.REQUEST_ID].combine_chunks().dictionary_encode()
    catalogue = predictor.catalogue
    row = catalogue.creative_row(table[Column.CREATIVE_ID].to_pylist())
    return {
        "auc": ranking.auc(clicked, predicted),
        "gauc_request": ranking.gauc(clicked, predicted, request.indices.to_numpy()),
        **calibration_figures(
            predicted,
            truth,
            np.ones(len(truth)),
            bucket_of(catalogue.impressions[row]),
        ),
        "calibration_shown": float(predicted[is_shown].sum() / truth[is_shown].sum()),
        "ecpm": 1000 * float((truth * bid)[is_shown].mean()),
        "predicted_ecpm": 1000 * float((predicted * bid)[is_shown].mean()),
    }


def _true_ctr(market: Market, table: pa.Table, slots: np.ndarray) -> np.ndarray:
    return market.click_probability(
        table[Column.USER_ID],
        table[Column.AD_ID],
        table[Column.CREATIVE_ID],
        slots,
        table[DEVICE] if DEVICE in table.column_names else None,
    )


def _paired(
    ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Return ours less theirs on the same requests, with 95 % intervals."""
    sides = [side["per_request"] for side in (ours, theirs)]
    columns = [
        column.astype(np.float64)
        for side in sides
        for column in (side["shown"], side["expected_clicks"], side["revenue_micros"])
    ]
    sums = np.stack(columns, 1)
    drawn = resampled_sums(sums, num_resamples=1000, seed=0)
    figures = {}
    for name, column, scale in (("true_ctr", 1, 1.0), ("rpm", 2, 1e-3)):
        samples = _difference(drawn, column) * scale
        low, high = np.quantile(samples, [0.025, 0.975])
        value = _difference(sums.sum(0), column) * scale
        figures[name] = {"value": float(value), "low": float(low), "high": float(high)}
    return figures


def _difference(sums: np.ndarray, column: int) -> np.ndarray:
    """Ratio of one side less that of the other; three columns a side."""
    ratio: np.ndarray = (
        sums[..., column] / sums[..., 0] - sums[..., 3 + column] / sums[..., 3]
    )
    return ratio
