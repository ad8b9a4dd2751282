"""Decision logs and clicks of small live tests, whose truth is known."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from cacs_ray.schema import CLICKS, DECISIONS

START = datetime(2026, 3, 1, tzinfo=UTC)
PRICE_MICROS = 200_000
ARMS = ("r1/cacs", "r2/cacs")

DECISION = {
    "request_id": "q1",
    "request_ts": START,
    "user_id": "u1",
    "ad_id": "hat",
    "creative_id": "wool",
    "candidate_creative_ids": ["wool", "felt"],
    "propensity": 0.5,
    "pctr": 0.1,
    "bid_micros": 300_000,
    "ecpm_micros": 30.0,
    "slot": 0,
    "price_micros": PRICE_MICROS,
    "policy": "cacs",
    "release": "r1",
    "is_fallback": False,
}


def decisions(*changes):
    return pa.Table.from_pylist([DECISION | change for change in changes], DECISIONS)


def clicks(*requests, ad="hat", after_s=5.0):
    rows = [
        {"request_id": one, "ad_id": ad, "click_ts": START + timedelta(seconds=after_s)}
        for one in requests
    ]
    return pa.Table.from_pylist(rows, CLICKS)


def live_test(seed, *, ctrs=(0.1, 0.1), users=400, days=10, shares=(0.5, 0.5)):
    """Draw a test of two releases, two slots a page view: (decisions, clicks).

    Users differ in how often they come and click, and come back over the days.
    """
    rng = np.random.default_rng(seed)
    arm = rng.choice(2, users, p=shares)
    taste = rng.gamma(4.0, 0.25, users)
    shown, clicked = [], []
    for user in range(users):
        release = f"r{arm[user] + 1}"
        ctr = min(1.0, ctrs[arm[user]] * taste[user])
        for view in range(1 + rng.poisson(5)):
            moment = START + timedelta(days=float(rng.uniform(0, days)))
            request = f"q{user}-{view}"
            for slot, ad in enumerate(("hat", "shoe")):
                shown.append(
                    {
                        "request_id": request,
                        "request_ts": moment,
                        "user_id": f"u{user}",
                        "ad_id": ad,
                        "slot": slot,
                        "release": release,
                    }
                )
                if rng.random() < ctr:
                    later = moment + timedelta(seconds=30)
                    clicked.append(
                        {"request_id": request, "ad_id": ad, "click_ts": later}
                    )
    return decisions(*shown), pa.Table.from_pylist(clicked, CLICKS)
