"""A market small enough to draw in a moment."""

import pytest

from cacs_ray.simulation.draw import draw_market
from cacs_ray.simulation.recipes import RECIPES

TINY = RECIPES["smoke"].override(
    {
        "population.num_users": 50,
        "population.num_ads": 30,
        "population.num_categories": 5,
        "traffic.num_impressions": 4_000,
        "traffic.num_days": 2,
        "traffic.num_next_requests": 50,
    }
)


@pytest.fixture(scope="session")
def tiny_recipe():
    return TINY


@pytest.fixture(scope="session")
def tiny_market():
    return draw_market(TINY, seed=3)
