"""Three hats of one ad: releases that like one best, and what such a release logged."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cacs_ray.features.catalogue import Catalogue
from cacs_ray.schema import CLICKS, DECISIONS

START = datetime(2026, 1, 1, tzinfo=UTC)
EPSILON = 0.4
CREATIVES = ["wool", "straw", "felt"]
CTR = {"wool": 0.05, "straw": 0.3, "felt": 0.05}


def release(favourite, known=tuple(CREATIVES), bundle_id=None):
    """An open bundle that always likes one hat best."""
    catalogue = Catalogue.from_tables(
        pa.table({"creative_id": list(known), "ad_id": ["hat"] * len(known)}),
        pa.table({"ad_id": ["hat"]}),
    )
    likes = np.array([0.0, *(float(name == favourite) for name in known)])
    return SimpleNamespace(
        bundle_id=bundle_id or f"likes-{favourite}",
        catalogue=catalogue,
        context=lambda requests: requests,
        selector_scores=lambda _, lists: likes[lists],
    )


def decision(number, creative, favourite="wool", **changes):
    """One shown decision of the release that likes `favourite`."""
    explored = EPSILON / 3
    return {
        "request_id": f"r{number:05d}",
        "request_ts": START + timedelta(seconds=number),
        "user_id": None,
        "ad_id": "hat",
        "creative_id": creative,
        "candidate_creative_ids": CREATIVES,
        "propensity": explored + (1 - EPSILON) * (creative == favourite),
        "selector_score": 0.0,
        "pctr": 0.1,
        "bid_micros": 1000,
        "ecpm_micros": 1.0,
        "slot": 0,
        "price_micros": 10,
        "policy": "cacs",
        "release": f"likes-{favourite}",
        "is_fallback": False,
        "fallback_reason": None,
        **changes,
    }


def write_logs(directory, favourite="wool", more=(), **changes):
    """Write 4,000 decisions of a release that explores, and their clicks.

    Args:
        directory: gets both files.
        favourite: what the release likes best.
        more: further decisions, without clicks.
        changes: of every decision.

    Returns:
        The files of decisions and clicks.
    """
    rng = np.random.default_rng(0)
    odds = [EPSILON / 3 + (1 - EPSILON) * (name == favourite) for name in CREATIVES]
    rows = [
        decision(number, str(creative), favourite, **changes)
        for number, creative in enumerate(rng.choice(CREATIVES, 4000, p=odds))
    ]
    clicks = [
        {
            "request_id": row["request_id"],
            "ad_id": "hat",
            "click_ts": row["request_ts"] + timedelta(seconds=5),
        }
        for row in rows
        if rng.random() < CTR[row["creative_id"]]
    ]
    files = directory / "decisions.parquet", directory / "clicks.parquet"
    pq.write_table(pa.Table.from_pylist([*rows, *more], DECISIONS), files[0])
    pq.write_table(pa.Table.from_pylist(clicks, CLICKS), files[1])
    return files
