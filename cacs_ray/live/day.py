"""One day of a market after its log: what is known, who asks, who clicks.

A day is numbered as the market counts: the days of the log come first.

    N candidate rows of a day    K creatives
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cacs_ray.answers.local import LocalScorers, decide_requests
from cacs_ray.bundle import Predictor
from cacs_ray.decision.candidates import Candidates
from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.features.context import Context
from cacs_ray.live.plan import NUM_SLOTS
from cacs_ray.schema import CLICKS, TIMESTAMP, Column
from cacs_ray.simulation.market import DAY_US, DEVICE, DEVICES, START_US, Market
from cacs_ray.simulation.observed import ads_table, creatives_table, users_table
from cacs_ray.simulation.traffic import draw_later_day

_CLICK_STREAM: Final = 5
_MEAN_DELAY_US: Final = 20_000_000
_LONGEST_DELAY_US: Final = 600_000_000


def known_tables(market: Market, day: int) -> dict[str, pa.Table]:
    """Return creatives, ads and users as they are known when a day has ended.

    What is born on the day is in them, with its moment, and may be shown from then
    on; what is born later is not: no model may see its content before.
    """
    is_born = market.live_from_us < START_US + (day + 1) * DAY_US
    # The first creative of an ad lives as long as its ad.
    of_ads = is_born[market.ad_first[:-1]]
    return {
        "creatives": creatives_table(market).filter(pa.array(is_born)),
        "ads": ads_table(market).filter(pa.array(of_ads)),
        "users": users_table(market),
    }


def requests_of(market: Market, day: int) -> pa.Table:
    """Return who asks on a day after the log, one row per candidate ad."""
    return draw_later_day(market, day - market.recipe.traffic.num_days)


def decide_day(
    predictor: Predictor,
    requests: pa.Table,
    settings: DecisionSettings,
    scorers_of: Callable[[Predictor, Context], LocalScorers] = LocalScorers,
) -> pa.Table:
    """Decide all requests of a day, in their order.

    Raises:
        RuntimeError: a request is rejected; the market asks for what it told of.
    """
    decisions, rejects = decide_requests(predictor, requests, settings, scorers_of)
    if rejects.num_rows:
        rules = set(rejects[Column.RULE].to_pylist())
        raise RuntimeError(f"{rejects.num_rows} requests are rejected: {rules}")
    return decisions


def draw_clicks(market: Market, day: int, decisions: pa.Table) -> pa.Table:
    """Draw who clicks on what was shown, from the true CTR in its slot.

    Every candidate row of a day has its own number in every loop: where two loops
    show the same creative in the same slot, both are clicked or none.

    Returns:
        Rows of `schema.CLICKS`, each within ten minutes of its request.
    """
    rng = np.random.default_rng([market.seed, _CLICK_STREAM, day])
    chance = rng.random(decisions.num_rows)
    delay = rng.exponential(_MEAN_DELAY_US, decisions.num_rows)
    is_shown = pc.is_valid(decisions[Column.SLOT])
    shown = decisions.filter(is_shown)
    kept = np.flatnonzero(is_shown.to_numpy())
    is_clicked = chance[kept] < true_ctr(market, shown, shown[Column.SLOT].to_numpy())
    clicked = shown.filter(pa.array(is_clicked))
    late = np.minimum(delay[kept][is_clicked], _LONGEST_DELAY_US).astype(np.int64)
    ts_us = clicked[Column.REQUEST_TS].cast(pa.int64()).to_numpy() + late
    columns = [
        clicked[Column.REQUEST_ID],
        clicked[Column.AD_ID],
        pa.array(ts_us, TIMESTAMP),
    ]
    return pa.table(columns, schema=CLICKS)


def true_ctr(market: Market, table: pa.Table, slots: np.ndarray) -> np.ndarray:
    """Return the true CTR of chosen creatives in given slots, float64 [N]."""
    return market.click_probability(
        table[Column.USER_ID],
        table[Column.AD_ID],
        table[Column.CREATIVE_ID],
        slots,
        table[DEVICE],
    )


def decide_by_truth(predictor: Predictor, market: Market, day: int) -> pa.Table:
    """Return what an oracle decides: the best creative of each ad, truly ranked.

    Args:
        predictor: lends its catalogue, which must be that of the day.
        market: the truth.
        day: which day.
    """
    requests = requests_of(market, day)
    settings = DecisionSettings(policy="cacs", num_slots=NUM_SLOTS)
    return decide_day(
        predictor,
        requests,
        settings,
        lambda one, context: TruthScorers(one, context, market, requests),
    )


class TruthScorers(LocalScorers):
    """Scores that are the market's own click probabilities.

    Args:
        predictor: for its catalogue.
        context: of `requests`.
        market: the truth.
        requests: A candidate rows, rows of one request adjacent.
    """

    def __init__(
        self,
        predictor: Predictor,
        context: Context,
        market: Market,
        requests: pa.Table,
    ) -> None:
        super().__init__(predictor, context)
        self._market, self._requests = market, requests
        self._user = market.user_rows(requests[Column.USER_ID])
        named = pc.index_in(requests[DEVICE], value_set=pa.array(DEVICES))
        self._device = 1 + named.fill_null(-1).to_numpy().astype(np.int64)
        ids = pa.array(predictor.catalogue.creative_ids[1:], pa.string())
        self._row = np.append(0, market.creative_rows(ids))

    async def selector_scores(self, candidates: Candidates) -> np.ndarray:
        """float64 [A, C]: true logits, up to a constant of each list."""
        assert list(candidates.ad_ids) == self._requests[Column.AD_ID].to_pylist()
        ad, place = np.nonzero(candidates.mask)
        creative = self._row[candidates.creative_lists[ad, place]]
        scores = np.zeros(candidates.creative_lists.shape)
        scores[ad, place] = self._market.creative_logits(self._user[ad], creative)
        return scores

    async def pctr(
        self,
        candidates: Candidates,  # noqa: ARG002  rows are those of the requests
        creative_row: np.ndarray,
    ) -> np.ndarray:
        """float64 [A]: true CTR in slot 0."""
        return self._market.probability(
            self._user,
            self._row[creative_row],
            np.zeros(len(creative_row), np.int64),
            self._device,
        )
