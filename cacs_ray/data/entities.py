"""Creatives, ads and users: read whole, checked by the rules, indexed by id.

These tables are small beside the log, so plain Arrow reads them, without Ray.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cacs_ray.data.casting import cast_table
from cacs_ray.data.checks import check_column
from cacs_ray.data.dataset import Dataset
from cacs_ray.data.declaration import LayoutColumn, table_schema
from cacs_ray.data.files import write_table
from cacs_ray.data.reading import TableFile, read_whole
from cacs_ray.data.rules import (
    ENTITY_RULES,
    Mask,
    bad_live_window,
    duplicate_entity,
    first_broken,
    rejected_rows,
    value_masks,
)
from cacs_ray.data.summary import RowCounts
from cacs_ray.ids import IdIndex
from cacs_ray.schema import Column

_IDS = {
    "ads": Column.AD_ID,
    "creatives": Column.CREATIVE_ID,
    "users": Column.USER_ID,
}


@dataclass(frozen=True, slots=True)
class Entities:
    """Accepted entities in contract names and types, declared columns kept."""

    creatives: pa.Table
    ads: pa.Table
    users: pa.Table
    """Empty when the dataset has no users table."""
    counts: Mapping[str, RowCounts]
    """Table name to its rows read, accepted and rejected."""


def read_entities(dataset: Dataset, rejects: Path) -> Entities:
    """Read and check the three entity tables.

    Of several rows with one id the first is kept and the others are rejected
    (`duplicate_entity`), whatever else is wrong with either; so is a creative
    whose ad was not accepted (`unknown_ad`).

    Args:
        dataset: where they are and what is declared of them.
        rejects: an existing directory for `<table>-00000.parquet`, one a file
            with rejected rows.

    Raises:
        InputError: a file cannot be read or has the wrong schema.
    """
    ads, ad_counts = _read_table(dataset, "ads", rejects, _no_more_rules)

    def creative_rules(table: pa.Table) -> dict[str, Mask]:
        ad_row = IdIndex(ads[Column.AD_ID]).find(table[Column.AD_ID])
        return {"unknown_ad": ad_row < 0, "bad_live_window": bad_live_window(table)}

    creatives, creative_counts = _read_table(
        dataset, "creatives", rejects, creative_rules
    )
    users, user_counts = _read_table(dataset, "users", rejects, _no_more_rules)
    counts = {"ads": ad_counts, "creatives": creative_counts, "users": user_counts}
    return Entities(creatives=creatives, ads=ads, users=users, counts=counts)


def vector_sizes(layout: tuple[LayoutColumn, ...]) -> dict[str, int]:
    """Name the declared vector columns of a table with their sizes."""
    return {c.name: c.size for c in layout if c.kind == "vector" and c.size}


def check_schema(
    layout: tuple[LayoutColumn, ...], schema: pa.Schema, *, source: str, table: str
) -> None:
    """Refuse a file that lacks a column or holds it in an impossible type."""
    for column in layout:
        check_column(column, schema, source=source, table=table)


def _no_more_rules(_: pa.Table) -> dict[str, Mask]:
    return {}


def _read_table(
    dataset: Dataset,
    name: str,
    rejects: Path,
    more_rules: Callable[[pa.Table], dict[str, Mask]],
) -> tuple[pa.Table, RowCounts]:
    """Read all files of one table; row order is file order."""
    layout, files = dataset.layout(name), dataset.files(name)
    raws = [_checked_raw(file, layout, name) for file in files]
    parts = [cast_table(raw, layout) for raw in raws]
    if not parts:
        return table_schema(layout).empty_table(), RowCounts()
    table = pa.concat_tables([part.table for part in parts], promote_options="default")
    masks = {
        "missing_required": np.concatenate([part.is_missing for part in parts]),
        "wrong_type": np.concatenate([part.is_wrong_type for part in parts]),
        "duplicate_entity": duplicate_entity(table[_IDS[name]]),
        **more_rules(table),
        **value_masks(table, vector_sizes(layout)),
    }
    broken = first_broken(masks, ENTITY_RULES, table.num_rows)
    counts, start = [], 0
    for number, (file, raw) in enumerate(zip(files, raws, strict=True)):
        own = broken[start : start + raw.num_rows]
        start += raw.num_rows
        rejected = rejected_rows(raw, own, ENTITY_RULES, source=file.path, first=0)
        if rejected.num_rows:
            write_table(rejects / f"{name}-{number:05d}.parquet", rejected)
        counts.append(RowCounts.of(accepted=int((own < 0).sum()), rejected=rejected))
    accepted = table.filter(pa.array(broken < 0)).combine_chunks()
    return accepted.cast(table_schema(layout, accepted.schema)), RowCounts.merged(
        counts
    )


def _checked_raw(
    file: TableFile, layout: tuple[LayoutColumn, ...], table: str
) -> pa.Table:
    raw = read_whole(file)
    check_schema(layout, raw.schema, source=file.path, table=table)
    return raw
