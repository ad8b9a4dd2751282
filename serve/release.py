"""What the gateway knows of a bundle: its id, its catalogue, the declared columns.

A candidate ads of one request
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from cacs_ray.data.files import sha256_file
from cacs_ray.errors import InputError
from cacs_ray.features.catalogue import Catalogue
from cacs_ray.features.kept import read_catalogue, read_spec
from cacs_ray.features.spec import FieldSpec
from cacs_ray.manifest import read_manifest
from cacs_ray.schema import REQUESTS, Column
from serve.api import AskedCandidate, DecideRequest

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUM_GOLDEN_ADS = 3
_GATEWAY_FILES = (
    "spec.json",
    "catalogue/creatives.parquet",
    "catalogue/ads.parquet",
    "catalogue/prior.json",
)

FeatureContent = str | float | list[str] | list[float] | None
"""A declared request column of one request, as its kind stores it."""


@dataclass(frozen=True, slots=True)
class PageView:
    """What the stages are told of a request: names, no arrays.

    The same for every stage; each builds the table it encodes from it.
    """

    request_id: str
    request_ts_us: int
    """Microseconds UTC."""
    user_id: str | None
    features: Mapping[str, FeatureContent]
    """Declared request columns; absent = unknown."""
    ad_ids: tuple[str, ...]
    """A candidate ads."""
    bid_micros: tuple[int, ...]
    token: str = ""
    """Drawn by the gateway for this request, so that what a stage has computed for
    it can be found again; "" = nothing is kept."""


@dataclass(frozen=True)
class Release:
    """One bundle as the gateway sees it: no weights."""

    bundle_id: str
    catalogue: Catalogue
    fields: tuple[FieldSpec, ...]
    """The request's declared features."""

    @cached_property
    def columns(self) -> pa.Schema:
        """Declared request columns and how each is kept."""
        return request_columns(self.fields)

    def features(self, asked: Mapping[str, object]) -> dict[str, FeatureContent]:
        """Check a request's features against their declaration.

        Raises:
            InputError: one is not declared, or is not of its declared kind.
        """
        declared = {field.column: field for field in reversed(self.fields)}
        for name in asked:
            if name not in self.columns.names:
                raise InputError(
                    f"is not declared; declared: {self.columns.names}",
                    field=f"features.{name}",
                    rule="undeclared_feature",
                )
        return {name: _content(declared[name], value) for name, value in asked.items()}

    def golden_request(self, now: datetime) -> DecideRequest:
        """Return a request that this release can answer, to prove that it does.

        It asks for the ads of the creatives that live longest, at a moment at
        which they are live.

        Raises:
            InputError: the catalogue is empty.
        """
        catalogue = self.catalogue
        rows = 1 + np.argsort(-catalogue.live_until_us[1:], kind="stable")
        if len(rows) == 0:
            raise InputError("the catalogue has no creatives", rule="empty_catalogue")
        first, last = catalogue.live_from_us[rows[0]], catalogue.live_until_us[rows[0]]
        ts_us = min(max(microseconds(now), int(first)), int(last) - 1)
        ads = dict.fromkeys(
            catalogue.ad_ids[row]
            for row in catalogue.creative_ad_row[rows[: 4 * _NUM_GOLDEN_ADS]]
        )
        return DecideRequest(
            request_id="golden",
            request_ts=_EPOCH + timedelta(microseconds=ts_us),
            candidates=[
                AskedCandidate(ad_id=ad_id, bid_micros=1_000_000)
                for ad_id in list(ads)[:_NUM_GOLDEN_ADS]
            ],
        )


def load_release(bundle: str | Path) -> Release:
    """Read of a bundle what the gateway needs: a few files, no weights.

    Raises:
        InputError: not a bundle, or one of these files is not the one that was
            written or cannot be read; the file is named.
    """
    root = Path(bundle)
    manifest = read_manifest(root)
    for name in _GATEWAY_FILES:
        entry = manifest["files"].get(name)
        if entry is None or sha256_file(root / name) != entry["sha256"]:
            raise InputError(
                "the file is not the one that was written (its digest differs)",
                source=str(root / name),
                rule="digest",
            )
    spec = read_spec(root / "spec.json")
    catalogue = read_catalogue(root / "catalogue")
    return Release(manifest["bundle_id"], catalogue, spec.of("request"))


LoadRelease = Callable[[str], Release]
"""Reads a bundle's catalogue by its path; a test passes its own."""


def microseconds(moment: datetime) -> int:
    """Return a moment as microseconds UTC."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def request_columns(fields: Sequence[FieldSpec]) -> pa.Schema:
    """Return the declared request columns, once each, and how each is kept.

    Columns that the contract itself defines are not among them.
    """
    kinds: dict[str, pa.DataType] = {}
    for field in fields:
        if field.column not in REQUESTS.names:
            kinds.setdefault(field.column, _column_type(field))
    return pa.schema(list(kinds.items()))


def requests_table(page: PageView, columns: pa.Schema) -> pa.Table:
    """Return a page view in the contract's requests form, one row per ad.

    Args:
        page: the request.
        columns: its declared columns, as of `request_columns`.
    """
    size = len(page.ad_ids)

    def same(value: object, kind: pa.DataType) -> pa.Array:
        return pa.array([value] * size, kind)

    known: dict[str, pa.Array] = {
        Column.REQUEST_ID: same(page.request_id, pa.string()),
        Column.REQUEST_TS: same(
            page.request_ts_us, REQUESTS.field(Column.REQUEST_TS).type
        ),
        Column.USER_ID: same(page.user_id, pa.string()),
        Column.AD_ID: pa.array(page.ad_ids, pa.string()),
        Column.BID_MICROS: pa.array(page.bid_micros, pa.int64()),
    }
    declared = {
        field.name: same(page.features.get(field.name), field.type) for field in columns
    }
    return pa.table({**declared, **known})


def _column_type(field: FieldSpec) -> pa.DataType:
    if field.kind == "number":
        return pa.float64()
    if field.kind == "vector":
        return pa.list_(pa.float32())
    return pa.list_(pa.string()) if field.kind == "category_list" else pa.string()


def _content(field: FieldSpec, value: object) -> FeatureContent:
    """Return one feature as its kind stores it, or refuse it."""
    if value is None:
        return None
    if field.kind in ("id", "category"):
        return _category(field, value)
    if field.kind == "number":
        return _number(field, value)
    if field.kind == "text" and isinstance(value, str):
        return value
    if field.kind == "category_list" and isinstance(value, list):
        return [_category(field, item) for item in value]
    if field.kind == "vector" and isinstance(value, list):
        if len(value) == field.size:
            return [_number(field, item) for item in value]
        raise _refusal(
            field, f"has {len(value)} numbers, not {field.size}", "vector_wrong_size"
        )
    raise _refusal(field, f"must be a {field.kind}", "wrong_type")


def _category(field: FieldSpec, value: object) -> str:
    """Whole numbers and flags become the text that a log column of them becomes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    # Longer integers are no column's values, and slow to write out.
    if isinstance(value, int) and abs(value) < 2**63:
        return str(value)
    raise _refusal(field, "must hold text or whole numbers", "wrong_type")


def _number(field: FieldSpec, value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # An integer beyond any float would raise in float().
    if is_number and abs(value) < 1e300 and math.isfinite(value):  # type: ignore[arg-type]
        return float(value)  # type: ignore[arg-type]
    raise _refusal(field, "must be a finite number", "wrong_type")


def _refusal(field: FieldSpec, message: str, rule: str) -> InputError:
    return InputError(message, field=f"features.{field.column}", rule=rule)
