"""Writes a market as a dataset directory of the log contract, its truth apart."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from cacs_ray.data.dataset import write_dataset
from cacs_ray.data.files import atomic_directory, write_table
from cacs_ray.errors import InputError
from cacs_ray.simulation.draw import draw_market
from cacs_ray.simulation.market import Market
from cacs_ray.simulation.observed import (
    ads_table,
    creatives_table,
    declared_features,
    users_table,
    write_picture_creatives,
)
from cacs_ray.simulation.pictures import (
    SHIPPED_PICTURES,
    PictureSource,
    read_pictures,
)
from cacs_ray.simulation.recipes import MarketRecipe
from cacs_ray.simulation.traffic import Counts, Part, draw_part, log_parts

TRUTH: Final = "truth"
"""Directory of the market's parameters; no stage of training opens it."""
_IMPRESSIONS: Final = "impressions"

log = logging.getLogger(__name__)

DrawDay = Callable[[list[Part], Counts], Counts]


def write_market(
    recipe: MarketRecipe,
    out: str | Path,
    *,
    seed: int,
    pictures: str | Path = SHIPPED_PICTURES,
) -> dict[str, object]:
    """Draw a market and write its log, tables, `dataset.yaml` and truth.

    Args:
        recipe: which market.
        out: directory to make; it may exist when it is empty.
        seed: equal seeds write equal rows, streamed or not.
        pictures: product photos with `pictures.json`, for recipes with pictures.

    Returns:
        Sizes, average CTR and seconds, for the job's last line.

    Raises:
        InputError: `out` holds something, or the photos are unusable.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            "exists and is not empty", source=str(out), field="--out", rule="empty_out"
        )
    started = time.monotonic()
    source = read_pictures(pictures) if recipe.has_pictures else None
    market = draw_market(recipe, seed, source)
    log.info(
        "market %s: %d users, %d ads, %d creatives",
        recipe.name,
        recipe.population.num_users,
        len(market.ad_category),
        len(market.creative_ad),
    )
    with atomic_directory(out) as directory:
        _write_tables(market, source, directory)
        counts = _write_log(market, directory / _IMPRESSIONS)
    num_impressions, num_clicks = counts.impressions.sum(), counts.clicks.sum()
    return {
        "out": str(out),
        "recipe": recipe.name,
        "seed": seed,
        "impressions": int(num_impressions),
        "ctr": float(num_clicks / max(num_impressions, 1)),
        "ads": len(market.ad_category),
        "creatives": len(market.creative_ad),
        "median_impressions_per_creative": float(np.median(counts.impressions)),
        "seconds": round(time.monotonic() - started, 1),
    }


def _write_tables(
    market: Market, source: PictureSource | None, directory: Path
) -> None:
    """Write everything but the impressions."""
    if source is None:
        creatives = creatives_table(market)
    else:
        creatives = write_picture_creatives(market, source, directory)
    tables = {
        "creatives": creatives,
        "ads": ads_table(market, source),
        "users": users_table(market),
    }
    for name, table in tables.items():
        write_table(directory / f"{name}.parquet", table)
    files = {name: f"{name}.parquet" for name in tables}
    write_dataset(
        directory,
        tables={"impressions": f"{_IMPRESSIONS}/", **files},
        features=declared_features(market),
        shared_vocabularies=[["recent_categories", "category"]],
    )
    (directory / TRUTH).mkdir()
    market.save(directory / TRUTH)


def _write_log(market: Market, directory: Path) -> Counts:
    """Write all parts, day by day, and return the final counts."""
    directory.mkdir()
    if market.recipe.is_streamed:
        from cacs_ray.cluster import start_ray

        with start_ray():
            return _write_days(market, _streamed(market, directory))

    def here(parts: list[Part], seen: Counts) -> Counts:
        added = Counts.none(market)
        for part in parts:
            added = added + _write_part(market, part, seen, directory)
        return added

    return _write_days(market, here)


def _write_days(market: Market, draw_day: DrawDay) -> Counts:
    seen = Counts.none(market)
    for day, parts in enumerate(log_parts(market.recipe)):
        seen = seen + draw_day(parts, seen)
        log.info(
            "day %d of %d: %d impressions so far",
            day + 1,
            market.recipe.traffic.num_days,
            seen.impressions.sum(),
        )
    return seen


def _write_part(market: Market, part: Part, seen: Counts, directory: Path) -> Counts:
    """Draw and write one part; what it holds in memory depends on its size alone."""
    table, added = draw_part(market, part, seen)
    write_table(directory / part.file_name, table)
    return added


def _streamed(market: Market, directory: Path) -> DrawDay:
    """Return a day's drawing by Ray tasks, one for each part.

    `directory` must be on a file system that every node sees.
    """
    import ray

    task: Any = ray.remote(num_cpus=1, max_retries=2)(_write_part)
    market_ref = ray.put(market)

    def draw_day(parts: list[Part], seen: Counts) -> Counts:
        seen_ref = ray.put(seen)
        pending = [task.remote(market_ref, part, seen_ref, directory) for part in parts]
        added = Counts.none(market)
        for counts in _as_they_finish(pending):
            added = added + counts
        return added

    return draw_day


def _as_they_finish(pending: list[Any]) -> Iterator[Counts]:
    """Yield results one at a time, so that they never lie in memory together."""
    import ray

    while pending:
        (done,), pending = ray.wait(pending, num_returns=1)
        yield ray.get(done)
