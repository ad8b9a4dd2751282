"""A decision log, two releases, and what one would have earned in the other's place."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cacs_ray.errors import InputError
from cacs_ray.evaluation.off_policy import OffPolicySettings
from cacs_ray.features.catalogue import Catalogue
from cacs_ray.recipes import counterfactual
from cacs_ray.recipes.counterfactual import ask_decisions, choices, logged_choices
from cacs_ray.schema import CLICKS, DECISIONS

START = datetime(2026, 1, 1, tzinfo=UTC)
EPSILON = 0.4
CREATIVES = ["wool", "straw", "felt"]
CTR = {"wool": 0.05, "straw": 0.3, "felt": 0.05}
SETTINGS = OffPolicySettings(replicates=200)


def release(favourite, known=tuple(CREATIVES)):
    """An open bundle that always likes one hat best."""
    catalogue = Catalogue.from_tables(
        pa.table({"creative_id": list(known), "ad_id": ["hat"] * len(known)}),
        pa.table({"ad_id": ["hat"]}),
    )
    likes = np.array([0.0, *(float(name == favourite) for name in known)])
    return SimpleNamespace(
        bundle_id=f"likes-{favourite}",
        catalogue=catalogue,
        context=lambda requests: requests,
        selector_scores=lambda _, lists: likes[lists],
    )


def decision(number, creative, **changes):
    """One shown decision of the release that likes wool."""
    explored = EPSILON / 3
    return {
        "request_id": f"r{number:05d}",
        "request_ts": START + timedelta(seconds=number),
        "user_id": None,
        "ad_id": "hat",
        "creative_id": creative,
        "candidate_creative_ids": CREATIVES,
        "propensity": explored + (1 - EPSILON) * (creative == "wool"),
        "selector_score": 0.0,
        "pctr": 0.1,
        "bid_micros": 1000,
        "ecpm_micros": 1.0,
        "slot": 0,
        "price_micros": 10,
        "policy": "cacs",
        "release": "likes-wool",
        "is_fallback": False,
        "fallback_reason": None,
        **changes,
    }


@pytest.fixture
def logs(tmp_path):
    """Two files: 4,000 decisions of a release that explores, and their clicks."""
    rng = np.random.default_rng(0)
    odds = [1 - EPSILON + EPSILON / 3, EPSILON / 3, EPSILON / 3]
    rows = [
        decision(number, str(creative))
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
    # What was not shown, not chosen, or not chosen by this release.
    rows += [
        decision(9001, "straw", slot=None, price_micros=None),
        decision(9002, "straw", is_fallback=True, fallback_reason="late"),
        decision(9003, "straw", release="another"),
    ]
    files = tmp_path / "decisions.parquet", tmp_path / "clicks.parquet"
    pq.write_table(pa.Table.from_pylist(rows, DECISIONS), files[0])
    pq.write_table(pa.Table.from_pylist(clicks, CLICKS), files[1])
    return files


@pytest.fixture(autouse=True)
def bundles(monkeypatch):
    """Bundles by name instead of by directory."""
    opened = {name: release(name) for name in CREATIVES}
    load = SimpleNamespace(load=lambda path: opened[str(path)])
    monkeypatch.setattr(counterfactual, "Predictor", load)
    return opened


def test_the_better_hat_would_have_won(logs):
    answer = ask_decisions("straw", *logs, champion="wool", settings=SETTINGS)
    assert answer["status"] == "ok"
    assert answer["decisions"] == 4000
    for estimate in answer["estimates"].values():
        assert estimate["low"] < CTR["straw"] < estimate["high"]
    assert answer["lift"]["snips"]["low"] > 0
    assert answer["lift"]["dr"]["low"] > 0


def test_another_poor_hat_would_not(logs):
    answer = ask_decisions("felt", *logs, champion="wool", settings=SETTINGS)
    assert answer["lift"]["snips"]["low"] < 0 < answer["lift"]["snips"]["high"]


def test_the_champion_must_have_decided_something(logs):
    answer = ask_decisions("straw", *logs, champion="felt", settings=SETTINGS)
    assert (answer["status"], answer["decisions"]) == ("refused", 0)
    assert "likes-felt showed nothing" in answer["reason"]
    assert "likes-wool" in answer["reason"]


def test_lists_keep_their_order_and_unknown_creatives_are_never_chosen():
    shown = pa.table(
        {
            "request_id": ["a", "b"],
            "creative_id": ["straw", "felt"],
            "candidate_creative_ids": [["wool", "straw"], ["felt"]],
            "propensity": [0.5, 1.0],
            "is_clicked": [True, False],
        }
    )
    log = logged_choices(shown)
    assert log.creative.tolist() == [[0, 1], [2, -1]]
    assert log.shown_index.tolist() == [1, 0]
    assert log.label.tolist() == [1, 0]
    # It knows neither felt nor, in the first list, anything it likes better.
    target = choices(release("felt", known=("wool", "straw")), shown)
    assert target.tolist() == [[1, 0], [0, 0]]


def test_a_shown_creative_outside_its_candidates_is_damage():
    shown = pa.table(
        {
            "request_id": ["a"],
            "creative_id": ["felt"],
            "candidate_creative_ids": [["wool", "straw"]],
            "propensity": [0.5],
            "is_clicked": [True],
        }
    )
    with pytest.raises(InputError, match="not among the candidates"):
        logged_choices(shown)
