"""A decision log, two releases, and what one would have earned in the other's place."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from cacs_ray.errors import InputError
from cacs_ray.evaluation.off_policy import OffPolicySettings
from cacs_ray.recipes import counterfactual
from cacs_ray.recipes.counterfactual import ask_decisions, choices, logged_choices
from tests.unit.recipes.hats import CREATIVES, CTR, decision, release, write_logs

SETTINGS = OffPolicySettings(replicates=200)


@pytest.fixture
def logs(tmp_path):
    """Two files: decisions of the release that likes wool, and their clicks."""
    # What was not shown, not chosen, or not chosen by this release.
    more = [
        decision(9001, "straw", slot=None, price_micros=None),
        decision(9002, "straw", is_fallback=True, fallback_reason="late"),
        decision(9003, "straw", release="another"),
    ]
    return write_logs(tmp_path, "wool", more)


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
