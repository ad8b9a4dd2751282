"""What every policy is truly worth, on a log whose market is known."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cacs_ray.answers.local import decide_requests
from cacs_ray.bundle import Predictor
from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.schema import PolicyName
from cacs_ray.simulation.market import Market
from cacs_ray.simulation.value import normalised_gain, true_value

log = logging.getLogger(__name__)

NUM_SLOTS = 3
"""Places per request in which the market's next day is played."""


def find_market(root: Path) -> Market | None:
    """Open the truth beside a simulated log; None for a log without one."""
    directory = root / "truth"
    return Market.load(directory) if (directory / "market.json").is_file() else None


def next_day_value(
    market: Market, predictor: Predictor, policies: Sequence[PolicyName]
) -> dict[str, dict[str, Any]]:
    """Play the day after the log with every policy, through the auction.

    Args:
        market: click probabilities and the next day's requests.
        predictor: an open bundle.
        policies: whom to compare; all see the same requests.

    Returns:
        By policy: `true_ctr` and `rpm_micros` with 95 % intervals over requests,
        `impressions` shown.
    """
    played: dict[str, dict[str, Any]] = {}
    for policy in policies:
        settings = DecisionSettings(policy=policy, num_slots=NUM_SLOTS)
        decisions, _ = decide_requests(predictor, market.requests, settings)
        value = true_value(market, decisions)
        played[policy] = {
            name: value[name] for name in ("true_ctr", "rpm_micros", "impressions")
        }
        log.info("%-10s true CTR %.4f", policy, value["true_ctr"]["value"])
    return played


def choice_gain(
    market: Market,
    impressions: pa.Table,
    chosen: Mapping[str, Sequence[str]],
    is_rare: np.ndarray,
) -> dict[str, dict[str, Any]]:
    """Return each policy's normalised gain on the test window's lists.

    Args:
        market: click probabilities.
        impressions: N accepted impressions of the test window.
        chosen: by policy, N creative ids.
        is_rare: bool [N]: the ad is in the less shown half of ads.
    """
    gains = {}
    for policy, creative_ids in chosen.items():
        gain = normalised_gain(market, impressions, list(creative_ids), is_rare=is_rare)
        gains[policy] = {name: gain[name] for name in ("all", "rare", "frequent")}
    return gains
