"""Draws a market from a recipe and a seed: the hidden truth, nothing observed.

U users + 1    A ads    K creatives    T categories    D style size
"""

import dataclasses
from typing import Final

import numpy as np

from cacs_ray.simulation.market import ALWAYS_US, DAY_US, NEVER_US, START_US, Market
from cacs_ray.simulation.pictures import PictureSource, draw_looks, style_of_looks
from cacs_ray.simulation.recipes import MarketRecipe
from cacs_ray.simulation.traffic import draw_later_day, sample_logits

AGE_BANDS: Final = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
REGIONS: Final = ("north", "east", "south", "west", "coast", "hills", "city", "lakes")
CATEGORY_NAMES: Final = (
    "shoes", "jackets", "bags", "watches", "helmets", "tents", "skis", "goggles",
    "mugs", "lamps", "chairs", "sofas", "phones", "laptops", "cameras", "speakers",
    "books", "games", "toys", "bikes", "tyres", "tools", "paints", "plants",
    "perfume", "soap", "dresses", "shirts", "hats", "rings", "coffee", "tea",
    "wine", "cheese", "snacks", "flights", "hotels", "insurance", "courses", "music",
)  # fmt: skip

_TASTE_SHARES: Final = {"age": 0.35, "region": 0.2, "topic": 0.25, "own": 0.2}
"""Shares of the variance of taste; `own` is learnt from a user's clicks alone."""
_AD_STYLE_SHARE: Final = 0.3
"""Share of the variance of style that all creatives of an ad have in common."""
_QUALITY_SHARES: Final = {"category": 0.3, "advertiser": 0.3, "own": 0.4}
_MEDIAN_BID_MICROS: Final = 300_000
_ADS_PER_ADVERTISER: Final = 8
_CALIBRATION_REQUESTS: Final = 8_000
_SEED_STREAM: Final = 0


def draw_market(
    recipe: MarketRecipe, seed: int, source: PictureSource | None = None
) -> Market:
    """Draw the truth, set its average CTR, and draw the requests of the next day.

    Args:
        recipe: sizes and strengths.
        seed: equal seeds draw equal markets.
        source: product photos; needed when the recipe has pictures.
    """
    rng = np.random.default_rng([seed, _SEED_STREAM])
    names = CATEGORY_NAMES[: recipe.population.num_categories]
    if recipe.has_pictures and source is not None:
        names = source.category_names
    users = _draw_users(recipe, len(names), rng)
    ads = _draw_ads(recipe, len(names), rng)
    if recipe.has_pictures and source is not None:
        ads["ad_category"] = source.category_of_ads(recipe.population.num_ads)
    creatives = _draw_creatives(recipe, ads["ad_first"], rng)
    market = Market(
        recipe=recipe,
        seed=seed,
        base_logit=0.0,
        category_names=names,
        **users,
        **ads,
        **creatives,
    )
    logits = sample_logits(market, _CALIBRATION_REQUESTS)
    base = base_for_ctr(logits, recipe.effects.target_ctr)
    market = dataclasses.replace(market, base_logit=base)
    return dataclasses.replace(market, requests=draw_later_day(market))


def base_for_ctr(logits: np.ndarray, ctr: float) -> float:
    """Return what to add to the logits so that their mean CTR is `ctr`.

    >>> round(base_for_ctr(np.full(3, 2.0), 0.5), 6)
    -2.0
    """
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = float((1 / (1 + np.exp(-(logits + middle)))).mean())
        low, high = (middle, high) if mean < ctr else (low, middle)
    return (low + high) / 2


def zipf_weights(count: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Return shares that fall as rank ** -exponent, in random order; sum 1."""
    shares = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    return rng.permutation(shares / shares.sum())


def _draw_users(
    recipe: MarketRecipe, num_categories: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draw tastes and topics; row 0 is nobody and stays empty."""
    known = recipe.population.num_users
    total = known + round(known * recipe.population.new_user_share)
    size = recipe.population.style_size
    keys = rng.gumbel(size=(total, num_categories)).astype(np.float32)
    keys += np.log(zipf_weights(num_categories, 0.5, rng)).astype(np.float32)
    order = np.argsort(-keys, axis=1)[:, :3].astype(np.int16)
    topics = np.full((1 + total, 3), -1, np.int16)
    topics[1:, : order.shape[1]] = order
    group = np.zeros((1 + total, 2), np.int16)
    group[1:, 0] = rng.integers(len(AGE_BANDS), size=total)
    group[1:, 1] = rng.integers(len(REGIONS), size=total)
    membership = {
        "age": (group[:, 0], len(AGE_BANDS)),
        "region": (group[:, 1], len(REGIONS)),
        "topic": (topics[:, 0], num_categories),
    }
    taste = np.sqrt(_TASTE_SHARES["own"]) * rng.standard_normal((1 + total, size))
    for name, (member, count) in membership.items():
        centres = rng.standard_normal((count, size))
        taste += np.sqrt(_TASTE_SHARES[name]) * centres[member]
    bias = recipe.effects.user * rng.standard_normal(1 + total)
    taste[0], bias[0] = 0.0, 0.0
    weight = np.zeros(1 + total)
    weight[1 : 1 + known] = zipf_weights(known, recipe.traffic.user_zipf, rng)
    return {
        "user_taste": taste.astype(np.float32),
        "user_topics": topics,
        "user_bias": bias.astype(np.float32),
        "user_group": group,
        "user_weight": weight,
    }


def _draw_ads(
    recipe: MarketRecipe, num_categories: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draw ads, their bids, their traffic and how many creatives they have."""
    count = recipe.population.num_ads
    num_advertisers = max(1, count // _ADS_PER_ADVERTISER)
    category = rng.integers(num_categories, size=count).astype(np.int16)
    advertiser = rng.integers(num_advertisers, size=count).astype(np.int32)
    parts = {
        "category": rng.standard_normal(num_categories)[category],
        "advertiser": rng.standard_normal(num_advertisers)[advertiser],
        "own": rng.standard_normal(count),
    }
    quality = sum(np.sqrt(_QUALITY_SHARES[name]) * part for name, part in parts.items())
    bid = _MEDIAN_BID_MICROS * np.exp(0.5 * rng.standard_normal(count))
    sizes = rng.integers(1, recipe.population.max_creatives + 1, size=count)
    return {
        "ad_category": category,
        "ad_advertiser": advertiser,
        "ad_quality": (recipe.effects.ad * quality).astype(np.float32),
        "ad_bid_micros": np.maximum(bid, 1).astype(np.int64),
        "ad_weight": zipf_weights(count, recipe.traffic.ad_zipf, rng),
        "ad_first": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
    }


def _draw_creatives(
    recipe: MarketRecipe, ad_first: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draw styles, their general appeal, residuals and lives."""
    count, size = int(ad_first[-1]), recipe.population.style_size
    looks = np.zeros((count, 0), np.int8)
    if recipe.has_pictures:
        looks = draw_looks(ad_first, rng)
        style = style_of_looks(looks, size, rng)
    else:
        common = rng.standard_normal((len(ad_first) - 1, size))
        style = np.sqrt(1 - _AD_STYLE_SHARE) * rng.standard_normal((count, size))
        style += np.sqrt(_AD_STYLE_SHARE) * np.repeat(common, np.diff(ad_first), 0)
    direction = rng.standard_normal(size)
    direction /= np.linalg.norm(direction)
    live_from, live_until = _draw_lives(recipe, ad_first, rng)
    residual = recipe.effects.residual * rng.standard_normal(count)
    return {
        "creative_style": style.astype(np.float32),
        "creative_look": looks,
        "creative_appeal": (recipe.effects.appeal * (style @ direction)).astype(
            np.float32
        ),
        "creative_residual": residual.astype(np.float32),
        "live_from_us": live_from,
        "live_until_us": live_until,
    }


def _draw_lives(
    recipe: MarketRecipe, ad_first: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw births and ends, int64 [K] each.

    The first creative of an ad lives from the ad's birth on and never ends, so an
    ad that exists always has something to show. Births fall on the log's days and
    the later days; an end comes at least a day after its birth.
    """
    population, count = recipe.population, int(ad_first[-1])
    num_days = recipe.traffic.num_days + recipe.traffic.num_later_days
    end_us = START_US + num_days * DAY_US
    sizes = np.diff(ad_first)
    is_first = np.zeros(count, bool)
    is_first[ad_first[:-1]] = True

    def moments(earliest: np.ndarray) -> np.ndarray:
        span = np.maximum(end_us - earliest, 1)
        return earliest + (rng.random(len(earliest)) * span).astype(np.int64)

    is_new_ad = rng.random(len(sizes)) < population.born_ad_share
    ad_from = moments(np.full(len(sizes), START_US))
    born_with = np.repeat(np.where(is_new_ad, ad_from, START_US), sizes)
    is_late = ~is_first & (rng.random(count) < population.born_share)
    live_from = np.where(is_late, moments(born_with), born_with)
    live_from[~is_late & ~np.repeat(is_new_ad, sizes)] = ALWAYS_US
    ends = moments(np.maximum(live_from, START_US) + DAY_US)
    has_end = ~is_first & (rng.random(count) < population.ended_share)
    return live_from, np.where(has_end, ends, NEVER_US)
