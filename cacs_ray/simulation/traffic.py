"""Requests of a market and the log they leave: who asks, what is shown, who clicks.

One part of one day is drawn at a time, from its own random stream, so that parts
may be drawn anywhere and in any order with the same result.

    R requests    M candidate ads per request    N impressions    C creatives
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cacs_ray.schema import IMPRESSIONS, REQUESTS, TIMESTAMP, Column
from cacs_ray.simulation.market import DAY_US, DEVICE, DEVICES, START_US, Market
from cacs_ray.simulation.recipes import MarketRecipe

_LOG_STREAM: Final = 1
_LATER_DAY_STREAM: Final = 2
_SAMPLE_STREAM: Final = 3
_DEVICE_SHARES: Final = (0.6, 0.3, 0.1)
_TOPIC_SHARES: Final = (0.5, 0.3, 0.2)
_NEW_USER_REQUESTS: Final = 0.04
"""Share of requests of later days by users the log has never seen."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Page views, in time order, with the ads that may be shown."""

    ts_us: np.ndarray
    """int64 [R]"""
    user: np.ndarray
    """int64 [R]: user rows, 0 = unknown visitor"""
    device: np.ndarray
    """int64 [R]: 1 + index into `DEVICES`"""
    ad: np.ndarray
    """int64 [R, M]: ad rows, -1 = no candidate (drawn twice, or not yet born)"""


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of the log: impressions `num_impressions` of one day."""

    day: int
    index: int
    num_impressions: int

    @property
    def file_name(self) -> str:
        """The part's file inside `impressions/`."""
        return f"day-{self.day:02d}-part-{self.index:03d}.parquet"


@dataclass(frozen=True, slots=True)
class Counts:
    """What a logging policy remembers of each creative."""

    clicks: np.ndarray
    """int64 [K]"""
    impressions: np.ndarray
    """int64 [K]"""

    @classmethod
    def none(cls, market: Market) -> "Counts":
        """Before the first impression."""
        size = len(market.creative_ad)
        return cls(np.zeros(size, np.int64), np.zeros(size, np.int64))

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.clicks + other.clicks, self.impressions + other.impressions)


def log_parts(recipe: MarketRecipe) -> Iterator[list[Part]]:
    """Yield the parts of each day in turn; sizes add up to the recipe's number."""
    traffic = recipe.traffic
    edges = np.arange(traffic.num_days + 1) * traffic.num_impressions
    for day, size in enumerate(np.diff(edges // traffic.num_days)):
        count = max(1, -(-int(size) // traffic.part_impressions))
        ends = np.arange(count + 1) * int(size) // count
        yield [Part(day, i, int(n)) for i, n in enumerate(np.diff(ends))]


def draw_part(market: Market, part: Part, seen: Counts) -> tuple[pa.Table, Counts]:
    """Draw one piece of the log.

    Args:
        market: the truth.
        part: which piece.
        seen: clicks and impressions as of the start of the day; decide what the
            epsilon-greedy logging policy thinks best.

    Returns:
        The impressions (contract columns and `device`, by rising request time) and
        the counts they add.
    """
    recipe = market.recipe
    rng = np.random.default_rng([market.seed, _LOG_STREAM, part.day, part.index])
    num_requests = -(-part.num_impressions // recipe.traffic.num_slots)
    requests = draw_requests(market, part.day, num_requests, rng)
    request, slot, ad = fill_slots(market, requests, rng)
    lists = market.live_lists(ad, requests.ts_us[request])
    place, propensity = _choose(market, lists, seen, rng)
    creative = lists[np.arange(len(lists)), place].astype(np.int64)
    user, device = requests.user[request], requests.device[request]
    p = market.probability(user, creative, slot, device)
    is_clicked = rng.random(len(p)) < p
    columns = {
        Column.REQUEST_ID: _request_ids(
            f"r{part.day:02d}{part.index:03d}", requests
        ).take(pa.array(request)),
        Column.REQUEST_TS: pa.array(requests.ts_us[request], TIMESTAMP),
        Column.USER_ID: market.user_ids.take(pa.array(user)),
        Column.AD_ID: market.ad_ids.take(pa.array(ad)),
        Column.CREATIVE_ID: market.creative_ids.take(pa.array(creative)),
        Column.SLOT: pa.array(slot, pa.int32()),
        Column.IS_CLICKED: pa.array(is_clicked),
        Column.BID_MICROS: pa.array(market.ad_bid_micros[ad]),
        Column.PROPENSITY: pa.array(propensity),
        Column.CANDIDATE_CREATIVE_IDS: _candidate_ids(market, lists),
        Column.WEIGHT: pa.nulls(len(p), pa.float64()),
        Column.POLICY: pa.repeat(recipe.logging.policy, len(p)),
        DEVICE: _device_names(device),
    }
    schema = IMPRESSIONS.append(pa.field(DEVICE, pa.string()))
    size = len(market.creative_ad)
    added = Counts(
        np.bincount(creative[is_clicked], minlength=size),
        np.bincount(creative, minlength=size),
    )
    return pa.table(columns, schema=schema), added


def draw_later_day(market: Market, later: int = 0) -> pa.Table:
    """Draw the requests of a day after the log, one row per candidate ad.

    Args:
        market: the truth.
        later: 0 is the day after the log, 1 the day after that.

    Returns:
        Columns of `schema.REQUESTS` (without the optional ones) and `device`, by
        rising request time; some users are unknown and some are new.
    """
    traffic = market.recipe.traffic
    rng = np.random.default_rng([market.seed, _LATER_DAY_STREAM, later])
    day = traffic.num_days + later
    drawn = draw_requests(market, day, traffic.num_next_requests, rng)
    user = drawn.user.copy()
    newcomers = np.arange(1 + market.recipe.population.num_users, len(market.user_bias))
    if len(newcomers):
        is_new = rng.random(len(user)) < _NEW_USER_REQUESTS
        user[is_new] = rng.choice(newcomers, int(is_new.sum()))
    request, place = np.nonzero(drawn.ad >= 0)
    ad = drawn.ad[request, place]
    ids = _request_ids(f"n{day:02d}", drawn)
    columns = {
        Column.REQUEST_ID: ids.take(pa.array(request)),
        Column.REQUEST_TS: pa.array(drawn.ts_us[request], TIMESTAMP),
        Column.USER_ID: market.user_ids.take(pa.array(user[request])),
        Column.AD_ID: market.ad_ids.take(pa.array(ad)),
        Column.BID_MICROS: pa.array(market.ad_bid_micros[ad]),
        DEVICE: _device_names(drawn.device[request]),
    }
    fields = [REQUESTS.field(n) for n in columns if n != DEVICE]
    schema = pa.schema([*fields, pa.field(DEVICE, pa.string())])
    return pa.table(columns, schema=schema)


def sample_logits(market: Market, num_requests: int) -> np.ndarray:
    """Return logits of uniformly chosen creatives on the last day, without base.

    Args:
        market: a market whose `base_logit` is 0.
        num_requests: how many requests to draw.

    Returns:
        float64 [N]; finding the base that gives a CTR needs them.
    """
    rng = np.random.default_rng([market.seed, _SAMPLE_STREAM])
    day = market.recipe.traffic.num_days - 1
    requests = draw_requests(market, day, num_requests, rng)
    request, slot, ad = fill_slots(market, requests, rng)
    lists = market.live_lists(ad, requests.ts_us[request])
    counts = (lists >= 0).sum(axis=1)
    place = (rng.random(len(lists)) * counts).astype(np.int64)
    creative = lists[np.arange(len(lists)), place].astype(np.int64)
    p = market.probability(
        requests.user[request], creative, slot, requests.device[request]
    )
    return np.log(p / (1 - p))


def draw_requests(
    market: Market, day: int, num_requests: int, rng: np.random.Generator
) -> Requests:
    """Draw who asks in one day, when, and which ads are candidates."""
    traffic = market.recipe.traffic
    hours = np.arange(24)
    busy = 1.2 - np.cos((hours - 3) * 2 * np.pi / 24)
    hour = rng.choice(24, num_requests, p=busy / busy.sum())
    offset = (hour + rng.random(num_requests)) * (DAY_US / 24)
    ts_us = START_US + day * DAY_US + np.sort(offset.astype(np.int64))
    share = np.cumsum(market.user_weight)
    user = np.searchsorted(share, rng.random(num_requests) * share[-1], side="right")
    user[rng.random(num_requests) < traffic.unknown_user_share] = 0
    device = 1 + rng.choice(len(DEVICES), num_requests, p=_DEVICE_SHARES)
    ad = _draw_ads(market, user, rng)
    ordered = np.sort(ad, axis=1)
    again = ordered[:, 1:] == ordered[:, :-1]
    ordered[:, 1:][again] = -1
    # The first creative of an ad lives as long as its ad.
    ad_from = market.live_from_us[market.ad_first[:-1]]
    unborn = ad_from[ordered] > ts_us[:, None]
    return Requests(ts_us, user, device, np.where(unborn, -1, ordered))


def fill_slots(
    market: Market, requests: Requests, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Show the ads with the best bid x noisy CTR of the ad.

    The score knows the ad and never the creative, so which creative is logged says
    nothing about why its ad was shown.

    Returns:
        Request index, slot and ad row of each impression, int64 [N] each, by
        request and then slot; a request with too few candidates fills fewer slots.
    """
    traffic = market.recipe.traffic
    is_real = requests.ad >= 0
    ad = np.where(is_real, requests.ad, 0)
    score = np.log(market.ad_bid_micros[ad]) + market.ad_logits(
        requests.user[:, None], ad
    )
    score += traffic.score_noise * rng.standard_normal(ad.shape, dtype=np.float32)
    score = np.where(is_real, score, -np.inf)
    best = np.argsort(-score, axis=1, kind="stable")[:, : traffic.num_slots]
    shown = np.take_along_axis(is_real, best, axis=1)
    request, slot = np.nonzero(shown)
    return request, slot, ad[request, best[request, slot]]


def _draw_ads(market: Market, user: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw M ads for each request: from the user's topics, and from all ads."""
    traffic = market.recipe.traffic
    by_category = np.argsort(market.ad_category, kind="stable")
    edge = np.concatenate([[0.0], np.cumsum(market.ad_weight[by_category])])
    category = np.arange(len(market.category_names) + 1)
    first = np.searchsorted(market.ad_category[by_category], category)

    shape = (len(user), traffic.num_candidates)
    taken = rng.choice(len(_TOPIC_SHARES), shape, p=_TOPIC_SHARES)
    topic = np.take_along_axis(market.user_topics[user], taken, axis=1)
    low, high = edge[first[topic]], edge[first[topic + 1]]
    anywhere = (rng.random(shape) >= traffic.topic_share) | (topic < 0)
    anywhere |= high <= low
    low, high = np.where(anywhere, 0.0, low), np.where(anywhere, edge[-1], high)
    at = low + rng.random(shape) * (high - low)
    place = np.searchsorted(edge, at, side="right") - 1
    return by_category[np.minimum(place, len(by_category) - 1)]


def _choose(
    market: Market, lists: np.ndarray, seen: Counts, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Choose by the logging policy.

    Returns:
        Index into each list and the probability with which the policy takes it,
        [N] each.
    """
    logging = market.recipe.logging
    real = lists >= 0
    counts = real.sum(axis=1)
    place = (rng.random(len(lists)) * counts).astype(np.int64)
    if logging.policy == "uniform":
        return place, 1.0 / counts
    total = seen.impressions.sum()
    mean = seen.clicks.sum() / total if total else market.recipe.effects.target_ctr
    weight = logging.prior_impressions
    ctr = (seen.clicks + weight * mean) / (seen.impressions + weight)
    best = np.argmax(np.where(real, ctr[lists], -1.0), axis=1)
    explores = rng.random(len(lists)) < logging.epsilon
    place = np.where(explores, place, best)
    propensity = logging.epsilon / counts + (1 - logging.epsilon) * (place == best)
    return place, propensity


def _candidate_ids(market: Market, lists: np.ndarray) -> pa.Array:
    """Return the lists as ids, or nulls when the recipe does not write them."""
    if not market.recipe.logging.writes_candidates:
        return pa.nulls(len(lists), pa.list_(pa.string()))
    real = lists >= 0
    ends = np.concatenate([[0], np.cumsum(real.sum(axis=1))])
    ids = market.creative_ids.take(pa.array(lists[real]))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), ids)


def _request_ids(prefix: str, requests: Requests) -> pa.Array:
    numbers = pa.array(np.arange(len(requests.user))).cast(pa.string())
    return pc.binary_join_element_wise(prefix, pc.utf8_lpad(numbers, 6, "0"), "-")


def _device_names(device: np.ndarray) -> pa.Array:
    return pa.array(DEVICES).take(pa.array(device - 1))
