"""The nouns: column names and Arrow schemas of every table; no logic.

A column is spelt here and nowhere else. Times are UTC microseconds, money is
integer micros of one currency (shared log contract, version 1).
"""

from typing import Final, Literal, get_args

import pyarrow as pa

TIMESTAMP: Final = pa.timestamp("us", tz="UTC")

Kind = Literal["id", "category", "category_list", "number", "vector", "text", "image"]
"""What a declared feature holds; see `dataset.yaml`."""

Side = Literal["user", "request", "ad", "creative"]
"""Which table a feature comes from, hence which tower may see it."""

PolicyName = Literal[
    "cacs",
    "post_rank",
    "parallel",
    "rank_only",
    "random",
    "popular",
    "thompson",
    "teacher",
]
"""How creatives are chosen and when, relative to ranking."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
SIDES: Final[tuple[Side, ...]] = get_args(Side)
POLICIES: Final[tuple[PolicyName, ...]] = get_args(PolicyName)


class Column:
    """Names of the contract's columns."""

    REQUEST_ID: Final = "request_id"
    REQUEST_TS: Final = "request_ts"
    USER_ID: Final = "user_id"
    AD_ID: Final = "ad_id"
    CREATIVE_ID: Final = "creative_id"
    SLOT: Final = "slot"
    IS_CLICKED: Final = "is_clicked"
    BID_MICROS: Final = "bid_micros"
    PROPENSITY: Final = "propensity"
    CANDIDATE_CREATIVE_IDS: Final = "candidate_creative_ids"
    WEIGHT: Final = "weight"
    POLICY: Final = "policy"
    LIVE_FROM_TS: Final = "live_from_ts"
    LIVE_UNTIL_TS: Final = "live_until_ts"
    CREATIVE_IDS: Final = "creative_ids"
    PINNED_CREATIVE_ID: Final = "pinned_creative_id"
    SELECTOR_SCORE: Final = "selector_score"
    PCTR: Final = "pctr"
    ECPM_MICROS: Final = "ecpm_micros"
    PRICE_MICROS: Final = "price_micros"
    RELEASE: Final = "release"
    IS_FALLBACK: Final = "is_fallback"
    FALLBACK_REASON: Final = "fallback_reason"
    CLICK_TS: Final = "click_ts"
    RULE: Final = "rule"


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


IMPRESSIONS: Final = pa.schema(
    [
        _required(Column.REQUEST_ID, pa.string()),
        _required(Column.REQUEST_TS, TIMESTAMP),
        pa.field(Column.USER_ID, pa.string()),
        _required(Column.AD_ID, pa.string()),
        _required(Column.CREATIVE_ID, pa.string()),
        _required(Column.SLOT, pa.int32()),
        _required(Column.IS_CLICKED, pa.bool_()),
        pa.field(Column.BID_MICROS, pa.int64()),
        pa.field(Column.PROPENSITY, pa.float64()),
        pa.field(Column.CANDIDATE_CREATIVE_IDS, pa.list_(pa.string())),
        pa.field(Column.WEIGHT, pa.float64()),
        pa.field(Column.POLICY, pa.string()),
    ]
)
"""One row per ad that was shown; (request_id, ad_id) is unique."""

CREATIVES: Final = pa.schema(
    [
        _required(Column.CREATIVE_ID, pa.string()),
        _required(Column.AD_ID, pa.string()),
        pa.field(Column.LIVE_FROM_TS, TIMESTAMP),
        pa.field(Column.LIVE_UNTIL_TS, TIMESTAMP),
    ]
)
"""One row per creative, of exactly one ad; live in [from, until), null = always."""

ADS: Final = pa.schema([_required(Column.AD_ID, pa.string())])
USERS: Final = pa.schema([_required(Column.USER_ID, pa.string())])

REQUESTS: Final = pa.schema(
    [
        _required(Column.REQUEST_ID, pa.string()),
        _required(Column.REQUEST_TS, TIMESTAMP),
        pa.field(Column.USER_ID, pa.string()),
        _required(Column.AD_ID, pa.string()),
        _required(Column.BID_MICROS, pa.int64()),
        pa.field(Column.CREATIVE_IDS, pa.list_(pa.string())),
        pa.field(Column.PINNED_CREATIVE_ID, pa.string()),
    ]
)
"""One row per candidate ad of a request; the last two columns are optional."""

DECISIONS: Final = pa.schema(
    [
        _required(Column.REQUEST_ID, pa.string()),
        _required(Column.REQUEST_TS, TIMESTAMP),
        pa.field(Column.USER_ID, pa.string()),
        _required(Column.AD_ID, pa.string()),
        _required(Column.CREATIVE_ID, pa.string()),
        _required(Column.CANDIDATE_CREATIVE_IDS, pa.list_(pa.string())),
        _required(Column.PROPENSITY, pa.float64()),
        pa.field(Column.SELECTOR_SCORE, pa.float64()),
        _required(Column.PCTR, pa.float64()),
        _required(Column.BID_MICROS, pa.int64()),
        _required(Column.ECPM_MICROS, pa.float64()),
        pa.field(Column.SLOT, pa.int32()),
        pa.field(Column.PRICE_MICROS, pa.int64()),
        _required(Column.POLICY, pa.string()),
        _required(Column.RELEASE, pa.string()),
        _required(Column.IS_FALLBACK, pa.bool_()),
        pa.field(Column.FALLBACK_REASON, pa.string()),
    ]
)
"""One row per candidate ad, shown or not; declared request columns follow."""

CLICKS: Final = pa.schema(
    [
        _required(Column.REQUEST_ID, pa.string()),
        _required(Column.AD_ID, pa.string()),
        _required(Column.CLICK_TS, TIMESTAMP),
    ]
)

ROW_RULES: Final = (
    "missing_required",
    "wrong_type",
    "unknown_ad",
    "unknown_creative",
    "creative_of_other_ad",
    "duplicate_impression",
    "bad_slot",
    "bad_propensity",
    "bad_bid",
    "bad_weight",
    "creative_not_live",
    "vector_wrong_size",
    "vector_not_finite",
    "timestamp_out_of_range",
)
"""Names of the row rules, in the order in which they are checked."""
