"""What a log shows of a market: the tables of users, ads and creatives.

Hidden style appears only through noisy vectors, the words of titles, or pictures.

    U users    A ads    K creatives    D style size    E embedding size
"""

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cacs_ray.data.declaration import FeatureDeclaration
from cacs_ray.schema import CREATIVES, Column, Kind, Side
from cacs_ray.simulation.draw import AGE_BANDS, REGIONS
from cacs_ray.simulation.market import DEVICE, TOPIC_WEIGHTS, Market, timestamps
from cacs_ray.simulation.pictures import (
    PictureSource,
    compose,
    read_photo,
    title_of_look,
)

IMAGES: Final = "images"
"""Directory of the composited creatives, beside `dataset.yaml`."""

_STREAM: Final = 4
_MAX_RECENT: Final = 8
_RECENT_NOISE: Final = 0.3
"""Share of recent categories that say nothing about a user's topics."""
_UNLISTED_SHARE: Final = 0.03
"""Share of users who are in no users table (of new users: half)."""
_TITLE_WORDS: Final = 4
_WORD_SHARPNESS: Final = 1.6
"""How strongly a title's words follow the style."""
_CHUNK: Final = 50_000
_WORDS: Final = (
    "bold", "calm", "crisp", "warm", "cool", "bright", "dark", "soft", "sharp",
    "light", "heavy", "quick", "slow", "quiet", "loud", "sweet", "wild", "tame",
    "plain", "fancy", "classic", "modern", "retro", "future", "urban", "rustic",
    "alpine", "coastal", "sunny", "stormy", "golden", "silver", "velvet", "steel",
    "silky", "rugged", "gentle", "fierce", "playful", "serious", "proud", "humble",
    "cosy", "airy", "minimal", "lavish", "honest", "secret", "royal", "simple",
    "clever", "daring", "friendly", "elegant", "sporty", "dreamy", "fresh",
    "vintage", "handmade", "smart", "pure", "rare",
)  # fmt: skip


def declared_features(market: Market) -> tuple[FeatureDeclaration, ...]:
    """Return what `dataset.yaml` declares of such a market."""
    kinds: dict[Side, dict[str, Kind]] = {
        "user": {
            Column.USER_ID: "id",
            "age_band": "category",
            "region": "category",
            "recent_categories": "category_list",
        },
        "request": {DEVICE: "category"},
        "ad": {
            Column.AD_ID: "id",
            "category": "category",
            "advertiser_id": "id",
            "price": "number",
        },
        "creative": {Column.CREATIVE_ID: "id", "title": "text"},
    }
    features = [
        FeatureDeclaration(name=name, of=side, kind=kind)
        for side, declared in kinds.items()
        for name, kind in declared.items()
    ]
    if market.recipe.has_pictures:
        image = FeatureDeclaration(name="image", of="creative", kind="image")
    else:
        size = market.recipe.population.embedding_size
        image = FeatureDeclaration(
            name="image_embedding", of="creative", kind="vector", size=size
        )
    return (*features, image)


def users_table(market: Market) -> pa.Table:
    """Return the users table; a few users, known or new, are not in it."""
    rng = np.random.default_rng([market.seed, _STREAM, 0])
    total, known = len(market.user_bias), 1 + market.recipe.population.num_users
    unlisted = np.where(np.arange(total) < known, _UNLISTED_SHARE, 0.5)
    listed = np.nonzero(rng.random(total) >= unlisted)[0]
    listed = listed[listed > 0]
    age, region = market.user_group[listed].T
    columns = {
        Column.USER_ID: market.user_ids.take(pa.array(listed)),
        "age_band": _names(AGE_BANDS, age, _missing(market, len(listed), rng)),
        "region": _names(REGIONS, region, _missing(market, len(listed), rng)),
        "recent_categories": _recent_categories(market, listed, rng),
    }
    return pa.table(columns)


def ads_table(market: Market, source: PictureSource | None = None) -> pa.Table:
    """Return the ads table; prices follow category, or the catalogue of pictures."""
    rng = np.random.default_rng([market.seed, _STREAM, 1])
    count = len(market.ad_category)
    level = np.exp(3.5 + 0.8 * rng.standard_normal(len(market.category_names)))
    price = level[market.ad_category]
    if market.recipe.has_pictures and source is not None:
        prices = np.array([picture.price for picture in source.pictures])
        price = prices[source.of_ads(count)]
    price = np.round(price * np.exp(0.3 * rng.standard_normal(count)), 2)
    advertisers = pc.binary_join_element_wise(
        "advertiser", pa.array(market.ad_advertiser).cast(pa.string()), "-"
    )
    columns = {
        Column.AD_ID: market.ad_ids,
        "category": _names(market.category_names, market.ad_category, None),
        "advertiser_id": advertisers,
        "price": pa.array(price, mask=_missing(market, count, rng)),
    }
    return pa.table(columns)


def creatives_table(market: Market) -> pa.Table:
    """Return the creatives of a market without pictures: vectors and titles."""
    rng = np.random.default_rng([market.seed, _STREAM, 2])
    count = len(market.creative_ad)
    titles = _titles(market, rng)
    title_missing = pa.array(_missing(market, count, rng))
    columns = {
        **_lives(market),
        "image_embedding": _embeddings(market, rng),
        "title": pc.if_else(title_missing, pa.scalar(None, pa.string()), titles),
    }
    return pa.table(columns)


def write_picture_creatives(
    market: Market, source: PictureSource, directory: Path
) -> pa.Table:
    """Composite every creative into `images/` and return the creatives table.

    Args:
        market: a market with looks.
        source: the product photos it was drawn with.
        directory: where `dataset.yaml` will be; image paths are relative to it.
    """
    rng = np.random.default_rng([market.seed, _STREAM, 2])
    photos = [read_photo(source.directory / p.file) for p in source.pictures]
    picture = source.of_ads(len(market.ad_category))[market.creative_ad]
    variant = rng.integers(1 << 16, size=len(picture))
    (directory / IMAGES).mkdir()
    paths, titles = [], []
    for row, look in enumerate(market.creative_look):
        name = source.pictures[picture[row]].name
        titles.append(title_of_look(name, look, int(variant[row])))
        paths.append(f"{IMAGES}/{market.creative_ids[row].as_py()}.jpg")
        image = compose(photos[picture[row]], look, titles[-1])
        image.save(directory / paths[-1], quality=88)
    columns = {
        **_lives(market),
        "image": pa.array(paths, mask=_missing(market, len(paths), rng)),
        "title": pa.array(titles),
    }
    return pa.table(columns)


def _lives(market: Market) -> dict[str, pa.Array]:
    """Return the contract's columns of creatives."""
    columns = [
        market.creative_ids,
        market.ad_ids.take(pa.array(market.creative_ad)),
        timestamps(market.live_from_us),
        timestamps(market.live_until_us),
    ]
    return dict(zip(CREATIVES.names, columns, strict=True))


def _missing(market: Market, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.random(count) < market.recipe.population.missing_share


def _names(
    names: tuple[str, ...], index: np.ndarray, missing: np.ndarray | None
) -> pa.Array:
    return pa.array(names).take(pa.array(index, pa.int32(), mask=missing))


def _recent_categories(
    market: Market, user: np.ndarray, rng: np.random.Generator
) -> pa.Array:
    """Return what users looked at before the log: their topics, with noise."""
    shape = (len(user), _MAX_RECENT)
    topics = market.user_topics[user]
    shares = np.array(TOPIC_WEIGHTS) / sum(TOPIC_WEIGHTS)
    taken = rng.choice(len(shares), shape, p=shares)
    category = np.take_along_axis(topics, taken, axis=1)
    anything = (rng.random(shape) < _RECENT_NOISE) | (category < 0)
    noise = rng.integers(len(market.category_names), size=shape)
    category = np.where(anything, noise, category)
    lengths = np.minimum(rng.poisson(4.0, len(user)), _MAX_RECENT)
    kept = np.arange(_MAX_RECENT) < lengths[:, None]
    ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    values = _names(market.category_names, category[kept], None)
    return pa.ListArray.from_arrays(ends, values)


def _embeddings(market: Market, rng: np.random.Generator) -> pa.Array:
    """Return rotated (style + noise, what the ad looks like, noise), list [K]."""
    population = market.recipe.population
    size = population.embedding_size
    count, width = market.creative_style.shape
    rotation, _ = np.linalg.qr(rng.standard_normal((max(size, width), size)))
    hidden = rng.standard_normal((count, max(size, width))).astype(np.float32)
    # Half of the nuisance is shared by an ad's creatives, as the product is.
    shared = rng.standard_normal((len(market.ad_category), (size - width) // 2))
    hidden[:, width : width + shared.shape[1]] = shared[market.creative_ad]
    hidden[:, :width] *= population.embedding_noise
    hidden[:, :width] += market.creative_style
    vectors = hidden @ rotation.astype(np.float32)
    known = ~_missing(market, count, rng)
    # Not fixed_size_list: pyarrow cannot read back a null one from Parquet.
    ends = np.concatenate([[0], np.cumsum(known * size)]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(ends), pa.array(vectors[known].ravel()), mask=pa.array(~known)
    )


def _titles(market: Market, rng: np.random.Generator) -> pa.Array:
    """Return style words, the product, and the shop, string [K]."""
    count, width = market.creative_style.shape
    direction = rng.standard_normal((width, len(_WORDS))).astype(np.float32)
    direction /= np.linalg.norm(direction, axis=0)
    words = pa.array(_WORDS)
    chunks = []
    for start in range(0, count, _CHUNK):
        style = market.creative_style[start : start + _CHUNK]
        keys = _WORD_SHARPNESS * (style @ direction) + rng.gumbel(
            size=(len(style), len(_WORDS))
        )
        best = np.argsort(-keys, axis=1)[:, :_TITLE_WORDS]
        ad = market.creative_ad[start : start + len(style)]
        noun = _names(market.category_names, market.ad_category[ad], None)
        shop = pa.array(market.ad_advertiser[ad]).cast(pa.string())
        columns = [words.take(pa.array(column)) for column in best.T]
        by = pc.binary_join_element_wise("from shop", shop, " ")
        chunks.append(pc.binary_join_element_wise(*columns, noun, by, " "))
    return pa.chunked_array(chunks).combine_chunks()
