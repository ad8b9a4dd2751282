"""A market of two ads that a person can hold, two days of log and three after it."""

import dataclasses
from math import log

import numpy as np

from cacs_ray.simulation.draw import draw_market
from cacs_ray.simulation.market import ALWAYS_US, DAY_US, NEVER_US, START_US
from cacs_ray.simulation.recipes import RECIPES

WOOL, FELT, SILK, SHOE, BOOT = (f"c000000{n}" for n in range(5))
CTR = np.array([0.1, 0.2, 0.4, 0.5, 0.3])
"""Of three hats, a shoe and a boot, alike for everybody."""

RECIPE = RECIPES["smoke"].override(
    {
        "population.num_users": 20,
        "population.num_ads": 2,
        "traffic.num_impressions": 100,
        "traffic.num_days": 2,
        "traffic.num_later_days": 3,
        "traffic.num_next_requests": 40,
        "effects.slot": 0.0,
        "effects.device": 0.0,
    }
)


def day_us(day):
    return START_US + day * DAY_US


def two_ads():
    """Silk hats, the best, are new: born in the middle of day 2, the first later day.

    The boot is new too, and worse than the shoe.
    """
    born = int(day_us(2.5))
    return dataclasses.replace(
        draw_market(RECIPE, seed=5),
        base_logit=0.0,
        ad_category=np.zeros(2, np.int16),
        user_topics=np.full((21, 3), -1, np.int16),
        user_bias=np.zeros(21, np.float32),
        user_taste=np.zeros((21, 6), np.float32),
        user_weight=np.append(0.0, np.full(20, 1 / 20)),
        ad_quality=np.zeros(2, np.float32),
        ad_bid_micros=np.array([1_000_000, 2_000_000]),
        ad_first=np.array([0, 3, 5], np.int32),
        creative_style=np.zeros((5, 6), np.float32),
        creative_appeal=np.array([log(p / (1 - p)) for p in CTR]),
        creative_residual=np.zeros(5),
        live_from_us=np.array([ALWAYS_US, ALWAYS_US, born, ALWAYS_US, born]),
        live_until_us=np.full(5, NEVER_US),
    )
