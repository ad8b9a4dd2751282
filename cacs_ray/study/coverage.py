"""How often off-policy intervals hold the truth, on logs whose truth is known.

A log is drawn again and again from one market: requests, logging choices and clicks
are new each time, the policies and what they are truly worth are not.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import ray
from scipy import stats

from cacs_ray.evaluation.off_policy import OffPolicySettings, value_policy_from_log
from cacs_ray.schema import Column
from cacs_ray.simulation.draw import draw_market
from cacs_ray.simulation.market import Market
from cacs_ray.simulation.recipes import MarketRecipe
from cacs_ray.study.kept import kept

NUM_ADS: Final = 40
NUM_ROWS: Final = 20_000
_CHUNK: Final = 25
_EPSILON: Final = 0.3
ESTIMATORS: Final = ("ips", "snips", "dr")


@dataclass(frozen=True, slots=True)
class Bandit:
    """Some ads of a market as a bandit: K creatives with their true CTRs."""

    ad: np.ndarray
    """int [K]"""
    true_ctr: np.ndarray
    """float64 [K], of the visitor nobody knows, in slot 0."""
    logging: np.ndarray
    """float64 [K]: P(creative | ad) of the log."""
    target: np.ndarray
    """float64 [K]: P(creative | ad) of the policy to value."""

    @property
    def true_value(self) -> float:
        """CTR of the target when every ad is equally often shown."""
        return float((self.target * self.true_ctr).sum() / (self.ad.max() + 1))

    def draw(self, seed: int, num_rows: int) -> pa.Table:
        """Draw a log."""
        rng = np.random.default_rng([seed, 7])
        ads = rng.integers(0, self.ad.max() + 1, num_rows)
        first = np.searchsorted(self.ad, np.arange(self.ad.max() + 1))
        total = np.cumsum(self.logging)
        start = np.append(0.0, total)[first][ads]
        # Each ad's probabilities sum to one, so all lie one after the other.
        row = np.searchsorted(
            total, start + rng.random(num_rows) * (1 - 1e-12), "right"
        )
        row = np.clip(row, first[ads], np.append(first[1:], len(self.ad))[ads] - 1)
        clicked = rng.random(num_rows) < self.true_ctr[row]
        return pa.table(
            {
                Column.REQUEST_ID: [f"r{i}" for i in range(num_rows)],
                Column.AD_ID: _names("a", ads),
                Column.CREATIVE_ID: _names("c", row),
                Column.IS_CLICKED: clicked,
                Column.PROPENSITY: self.logging[row],
            }
        )

    @property
    def target_table(self) -> pa.Table:
        """The target as `value_policy_from_log` reads it."""
        return pa.table(
            {
                Column.AD_ID: _names("a", self.ad),
                Column.CREATIVE_ID: _names("c", np.arange(len(self.ad))),
                Column.PROPENSITY: self.target,
            }
        )


def bandit_of(market: Market, logging: str, *, epsilon: float = _EPSILON) -> Bandit:
    """Take the first ads of a market.

    Args:
        market: the truth.
        logging: `uniform`; `epsilon_greedy`: mostly the creative that is second best
            in truth; `greedy`: that one in all but one of a thousand.
        epsilon: share of uniform choice of `epsilon_greedy`.

    Returns:
        A bandit whose target shows the truly best creative of each ad with 0.9.
    """
    num_creatives = int(market.ad_first[NUM_ADS])
    rows = np.arange(num_creatives)
    ad = market.creative_ad[rows].astype(np.int64)
    ids = pa.array(rows)
    truth = market.click_probability(
        pa.nulls(num_creatives, pa.string()),
        market.ad_ids.take(pa.array(ad)),
        market.creative_ids.take(ids),
        np.zeros(num_creatives, np.int64),
    )
    uniform = 1.0 / np.bincount(ad)[ad]
    best, second = _ranked(truth, ad, 0), _ranked(truth, ad, 1)
    share = {"uniform": 1.0, "epsilon_greedy": epsilon, "greedy": 0.001}[logging]
    return Bandit(
        ad=ad,
        true_ctr=truth,
        logging=share * uniform + (1 - share) * second,
        target=0.1 * uniform + 0.9 * best,
    )


def _ranked(truth: np.ndarray, ad: np.ndarray, place: int) -> np.ndarray:
    """Return 1 for the creative of each ad at a place by truth, or its last."""
    chosen = np.zeros(len(ad))
    for number in range(int(ad.max()) + 1):
        rows = np.flatnonzero(ad == number)
        order = rows[np.argsort(-truth[rows], kind="stable")]
        chosen[order[min(place, len(order) - 1)]] = 1.0
    return chosen


def _names(letter: str, numbers: np.ndarray) -> pa.Array:
    return pa.array([f"{letter}{number}" for number in numbers.tolist()])


def count_covered(market: MarketRecipe, out: Path, num_runs: int) -> dict[str, Any]:
    """Count how often 95 % intervals hold the truth; kept in `coverage.json`.

    Args:
        market: recipe; seed 0 is drawn.
        out: the study.
        num_runs: logs by logging policy.

    Returns:
        By logging policy: `runs`, `refused` (share), `reason` of the first refusal,
        and per estimator `covered` with its 95 % Clopper-Pearson interval, `bias`
        (mean estimate less truth) and `width` (mean of the intervals).
    """
    made_from = {"market": market.model_dump(mode="json"), "runs": num_runs}
    table: dict[str, Any] = kept(
        out / "coverage.json", made_from, lambda: _count(market, num_runs)
    )
    return table


def _count(market: MarketRecipe, num_runs: int) -> dict[str, Any]:
    drawn = draw_market(market, seed=0)
    table = {}
    for logging in ("uniform", "epsilon_greedy", "greedy"):
        bandit = bandit_of(drawn, logging)
        task = ray.remote(num_cpus=1)(value_runs)
        shared = ray.put(bandit)
        starts = range(0, num_runs, _CHUNK)
        chunks = ray.get(
            [task.remote(shared, s, min(s + _CHUNK, num_runs)) for s in starts]
        )
        table[logging] = _covered([one for c in chunks for one in c], bandit.true_value)
    return table


def value_runs(bandit: Bandit, first: int, end: int) -> list[dict[str, Any]]:
    """Draw logs and value the target on each."""
    settings = OffPolicySettings()
    return [
        value_policy_from_log(
            bandit.draw(seed, NUM_ROWS), bandit.target_table, settings
        )
        for seed in range(first, end)
    ]


def _covered(answers: list[dict[str, Any]], truth: float) -> dict[str, Any]:
    spoken = [one["estimates"] for one in answers if one["status"] == "ok"]
    reasons = [one["reason"] for one in answers if one["reason"]]
    table: dict[str, Any] = {
        "runs": len(answers),
        "true_value": truth,
        "refused": len(reasons) / len(answers),
        "reason": reasons[0] if reasons else None,
    }
    for name in ESTIMATORS if spoken else ():
        hits = sum(one[name]["low"] <= truth <= one[name]["high"] for one in spoken)
        share = stats.binomtest(hits, len(spoken)).proportion_ci()
        table[name] = {
            "covered": hits / len(spoken),
            "low": float(share.low),
            "high": float(share.high),
            "bias": float(np.mean([one[name]["value"] - truth for one in spoken])),
            "width": float(
                np.mean([one[name]["high"] - one[name]["low"] for one in spoken])
            ),
        }
    return table
