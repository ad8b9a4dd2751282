"""The same validation, join and encoding in Polars, on its streaming engine.

python peer_polars.py DATASET OUT BOUNDS_JSON

Fits the columns of the simulated market, the only dataset it knows: impressions
have no vectors and no candidate lists (it stops when they do).
"""

import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

c = pl.col
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
ALWAYS = pl.datetime(1677, 12, 31, time_unit="us", time_zone="UTC")
NEVER = pl.datetime(9999, 12, 31, time_unit="us", time_zone="UTC")
Tables = dict[str, pl.DataFrame]


def entities(root: Path, out: Path) -> Tables:
    """Check ads, creatives and users, number them from 1, write them."""
    ads = pl.read_parquet(root / "ads.parquet").filter(
        c.ad_id.is_not_null() & c.ad_id.is_first_distinct(),
        ~c.price.is_infinite().fill_null(value=False),
    )
    ads = ads.with_row_index("ad_row", 1)
    is_finite = c.image_embedding.list.eval(
        pl.element().is_finite() & pl.element().is_not_null()
    )
    creatives = pl.read_parquet(root / "creatives.parquet").join(
        ads.select("ad_row", c.ad_id), on=c.ad_id, how="left", maintain_order="left"
    )
    creatives = creatives.filter(
        c.creative_id.is_not_null() & c.creative_id.is_first_distinct(),
        c.ad_row.is_not_null(),
        c.live_from_ts.is_null()
        | c.live_until_ts.is_null()
        | (c.live_until_ts > c.live_from_ts),
        c.image_embedding.is_null()
        | ((c.image_embedding.list.len() == 32) & is_finite.list.all()),
    ).with_row_index("creative_row", 1)
    users = pl.read_parquet(root / "users.parquet").filter(
        c.user_id.is_not_null() & c.user_id.is_first_distinct()
    )
    users = users.with_row_index("user_row", 1)
    tables = {"ads": ads, "creatives": creatives, "users": users}
    for name, table in tables.items():
        table.write_parquet(out / f"{name}.parquet", compression="zstd")
    return tables


def judged(root: Path, tables: Tables) -> pl.LazyFrame:
    """Look every impression up and name the first rule that it breaks."""
    known = tables["creatives"].select(
        c.creative_id,
        "creative_row",
        live_from=c.live_from_ts.fill_null(ALWAYS),
        live_until=c.live_until_ts.fill_null(NEVER),
        ad_of_creative=c.ad_row,
    )
    rows = (
        pl.scan_parquet(root / "impressions" / "*.parquet")
        .with_row_index("at")
        .join(
            tables["ads"].lazy().select(c.ad_id, c.ad_row),
            on=c.ad_id,
            how="left",
            maintain_order="left",
        )
        .join(known.lazy(), on=c.creative_id, how="left", maintain_order="left")
    )
    required = (c.request_id, c.request_ts, c.ad_id, c.creative_id, c.slot)
    is_missing = pl.any_horizontal(*(r.is_null() for r in (*required, c.is_clicked)))
    checks = {
        "missing_required": is_missing,
        "unknown_ad": c.ad_row.is_null(),
        "unknown_creative": c.creative_row.is_null(),
        "creative_of_other_ad": c.ad_of_creative != c.ad_row,
        "bad_slot": c.slot < 0,
        "bad_propensity": ~((c.propensity > 0) & (c.propensity <= 1)),
        "bad_bid": c.bid_micros <= 0,
        "bad_weight": ~((c.weight > 0) & c.weight.is_finite()),
        "creative_not_live": (c.request_ts < c.live_from)
        | (c.request_ts >= c.live_until),
        "timestamp_out_of_range": ~c.request_ts.is_between(EARLIEST, LATEST, "left"),
    }
    broken = pl.coalesce(
        *(pl.when(check).then(pl.lit(rule)) for rule, check in checks.items())
    )
    return rows.with_columns(broken_rule=broken)


def without_repeats(rows: pl.DataFrame) -> pl.DataFrame:
    """Reject impressions whose key stood already in an earlier row."""
    key = pl.struct(c.request_id, c.ad_id)
    hashes = rows.lazy().select("at", key=key.hash(1))
    several = (
        hashes.group_by("key")
        .agg(pl.len().alias("copies"))
        .filter(c.copies > 1)
        .collect(engine="streaming")
    )
    if several.is_empty():
        return rows
    suspects = rows.filter(key.hash(1).is_in(several["key"].implode()))
    again = suspects.filter(~key.is_first_distinct())["at"]
    earlier_rules = ("missing_required", "unknown_ad", "unknown_creative")
    keeps_rule = c.broken_rule.is_in([*earlier_rules, "creative_of_other_ad"])
    is_repeat = c.at.is_in(again.implode()) & ~keeps_rule.fill_null(value=False)
    changed = pl.when(is_repeat).then(pl.lit("duplicate_impression"))
    return rows.with_columns(broken_rule=changed.otherwise(c.broken_rule))


def vocabulary(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """Number the values of a vocabulary by falling weight."""
    return (
        pl.concat(parts)
        .drop_nulls()
        .group_by("value")
        .agg(c.w.sum())
        .filter(c.w >= 1.0)
        .sort("w", "value", descending=[True, False])
        .with_row_index("index", 1)
    )


def vocabularies(training: pl.DataFrame, tables: Tables) -> Tables:
    """Count users, ads, creatives and their values over the training window."""
    weight = c.weight.fill_null(1.0)

    def counts(of: pl.Expr) -> pl.DataFrame:
        lazy = training.lazy().group_by(value=of).agg(w=weight.sum())
        return lazy.collect(engine="streaming")

    users = tables["users"].join(
        counts(c.user_id), left_on=c.user_id, right_on="value", how="left"
    )
    ads = tables["ads"].join(
        counts(c.ad_id), left_on=c.ad_id, right_on="value", how="left"
    )

    def of(table: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
        return table.select(value=value, w=c.w)

    recent = of(users, c.recent_categories).explode("value")
    return {
        "user": vocabulary([of(users, c.user_id)]),
        "age": vocabulary([of(users, c.age_band)]),
        "region": vocabulary([of(users, c.region)]),
        "category": vocabulary([recent, of(ads, c.category)]),
        "ad": vocabulary([of(ads, c.ad_id)]),
        "advertiser": vocabulary([of(ads, c.advertiser_id)]),
        "creative": vocabulary([counts(c.creative_id)]),
        "device": vocabulary([counts(c.device)]),
        "weighted ads": ads,
    }


def index_of(value: pl.Expr, known: pl.DataFrame) -> pl.Expr:
    """Return the index of each value, 0 where it is unknown."""
    index = known["index"].cast(pl.Int32)
    return value.replace_strict(known["value"], index, default=0)


def encode_entities(tables: Tables, known: Tables, out: Path) -> None:
    """Write the encoded columns of users, ads and creatives."""
    values = tables["users"].select("user_row", value=c.recent_categories.list.head(20))
    values = values.explode("value")
    recent = (
        values.join(known["category"], on="value", how="left", maintain_order="left")
        .group_by("user_row", maintain_order=True)
        .agg(recent=c.index.fill_null(0))
    )
    users = tables["users"].select(
        "user_row",
        user=index_of(c.user_id, known["user"]),
        age=index_of(c.age_band, known["age"]),
        region=index_of(c.region, known["region"]),
    )
    users = users.join(recent, on="user_row", how="left", maintain_order="left")
    users.write_parquet(out / "encoded_users.parquet", compression="uncompressed")
    seen = known["weighted ads"].filter(c.price.is_finite() & c.w.is_not_null())
    mean = (c.price * c.w).sum() / c.w.sum()
    variance = (c.price**2 * c.w).sum() / c.w.sum() - mean**2
    center, scale = seen.select(mean, s=variance.clip(0).sqrt()).row(0)
    ads = tables["ads"].select(
        "ad_row",
        ad=index_of(c.ad_id, known["ad"]),
        category=index_of(c.category, known["category"]),
        advertiser=index_of(c.advertiser_id, known["advertiser"]),
        price=((c.price - center) / (scale or 1.0)).clip(-10, 10).cast(pl.Float32),
    )
    ads.write_parquet(out / "encoded_ads.parquet", compression="uncompressed")
    flat = tables["creatives"].select(x=c.image_embedding.explode().cast(pl.Float64))
    deviation = flat.select((c.x**2).mean().sqrt()).item() or 1.0
    creatives = tables["creatives"].select(
        "creative_row",
        "ad_row",
        creative=index_of(c.creative_id, known["creative"]),
        image=c.image_embedding.list.eval(pl.element() / deviation),
    )
    creatives.write_parquet(
        out / "encoded_creatives.parquet", compression="uncompressed"
    )


def versions(tables: Tables) -> pl.DataFrame:
    """Return every list of live creatives of every ad, and from when it holds."""
    creatives = tables["creatives"]
    ends = [
        tables["ads"].select("ad_row", moment=ALWAYS),
        creatives.select("ad_row", moment=c.live_from_ts).drop_nulls(),
        creatives.select("ad_row", moment=c.live_until_ts).drop_nulls(),
    ]
    moments = pl.concat(ends).unique().sort("ad_row", "moment")
    moments = moments.with_row_index("list_row", 1)
    held = (
        moments.join(creatives, on="ad_row")
        .filter(
            c.live_from_ts.fill_null(ALWAYS) <= c.moment,
            c.live_until_ts.fill_null(NEVER) > c.moment,
        )
        .group_by("list_row")
        .agg(members=c.creative_row.sort())
    )
    return moments.join(held, on="list_row", how="left", maintain_order="left")


def encode_rows(
    accepted: pl.DataFrame,
    tables: Tables,
    known: Tables,
    out: Path,
    windows: Mapping[str, tuple[int, int]],
) -> None:
    """Write the encoded impressions of every window."""
    lists = versions(tables)
    lists.write_parquet(out / "lists.parquet", compression="uncompressed")
    place = lists.select("list_row", creative_row="members").explode("creative_row")
    place = place.drop_nulls().with_columns(
        shown_index=pl.int_range(pl.len()).over("list_row").cast(pl.Int32)
    )
    by_time = lists.select("ad_row", "moment", "list_row").sort("moment")
    ids = tables["users"].lazy().select(c.user_id, "user_row")
    stamped = accepted.lazy().sort(c.request_ts)
    found = stamped.join_asof(
        by_time.lazy(),
        left_on=c.request_ts,
        right_on="moment",
        by="ad_row",
        check_sortedness=False,
    )
    rows = (
        found.join(place.lazy(), on=["list_row", "creative_row"], how="left")
        .join(ids, on=c.user_id, how="left")
        .select(
            c.user_row.fill_null(0).cast(pl.Int32),
            c.ad_row.cast(pl.Int32),
            c.list_row.cast(pl.Int32),
            "shown_index",
            c.slot,
            label=c.is_clicked.cast(pl.Float32),
            w=c.weight.fill_null(1.0).cast(pl.Float32),
            p=c.propensity.fill_null(float("nan")).cast(pl.Float32),
            ts=c.request_ts.dt.epoch("us"),
            bid=c.bid_micros.fill_null(0),
            request_hash=c.request_id.hash(1),
            device=index_of(c.device, known["device"]),
        )
        .collect(engine="streaming")
    )
    for name, (start, end) in windows.items():
        chosen = rows.filter((c.ts >= start) & (c.ts < end))
        chosen.write_parquet(out / f"{name}.parquet", compression="uncompressed")


def preprocess(
    root: Path, out: Path, windows: Mapping[str, tuple[int, int]]
) -> dict[str, object]:
    """Run all of it and count what was accepted and rejected."""
    out.mkdir(parents=True)
    started = time.perf_counter()
    tables = entities(root, out)
    rows = without_repeats(judged(root, tables).collect(engine="streaming"))
    if rows.select(c.candidate_creative_ids.is_not_null().any()).item():
        raise SystemExit("this script does not know candidate lists")
    accepted = rows.filter(c.broken_rule.is_null())
    rejected = rows.filter(c.broken_rule.is_not_null())
    accepted.select(pl.exclude("at", "broken_rule", "^live_.*$", "^.*_row$")).drop(
        "ad_of_creative"
    ).write_parquet(out / "accepted.parquet", compression="zstd")
    rejected.write_parquet(out / "rejected.parquet", compression="zstd")
    by_rule = dict(rejected.group_by("broken_rule").len().rows())
    del rows
    start, end = windows["train"]
    time_us = c.request_ts.dt.epoch("us")
    known = vocabularies(accepted.filter((time_us >= start) & (time_us < end)), tables)
    encode_entities(tables, known, out)
    encode_rows(accepted, tables, known, out, windows)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "accepted": accepted.height, "rejected": by_rule}


if __name__ == "__main__":
    given = json.loads(sys.argv[3])
    result = preprocess(Path(sys.argv[1]), Path(sys.argv[2]), given)
    sys.stdout.write(json.dumps(result) + "\n")
