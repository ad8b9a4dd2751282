"""What the dropout gate promises."""

import numpy as np
import pytest
import torch

from cacs_ray.models.adaptive_dropout import AdaptiveDropout
from tests.synthetic_log import SPEC, gate

KEY = "creative.creative_id"
RARE, FREQUENT, UNSEEN = 1, 2, 3
NUM_CREATIVES = 48


def make(kind: str) -> AdaptiveDropout:
    counts = np.zeros(1 + NUM_CREATIVES)
    counts[[0, RARE, FREQUENT]] = 99.0, 10.0, 3000.0
    fields = tuple(f for f in SPEC.of("creative") if f.kind in ("id", "vector"))
    return AdaptiveDropout(SPEC, fields, gate(kind), {"creative_id": counts})


def features(*index: int) -> dict[str, torch.Tensor]:
    return {KEY: torch.tensor(index), "creative.picture": torch.ones(len(index), 7)}


KINDS = ("none", "fixed", "frequency", "learnt")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_training", [True, False])
def test_a_value_without_impressions_is_always_dropped(kind, is_training):
    # Index 0 is unknown, whatever the counts say about it.
    dropout = make(kind).train(is_training)
    assert dropout(features(0, UNSEEN))[KEY].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("kind", "rare", "frequent"),
    [
        ("none", 1.0, 1.0),
        ("fixed", 0.7, 0.7),
        ("frequency", 10 / 40, 3000 / 3030),
        ("learnt", 10 / 40, 3000 / 3030),  # where it starts
    ],
)
def test_in_evaluation_the_factor_is_the_chance_of_being_kept(kind, rare, frequent):
    kept = make(kind).eval()(features(RARE, FREQUENT))[KEY]
    assert kept.tolist() == pytest.approx([rare, frequent])


@pytest.mark.parametrize("kind", ["fixed", "frequency"])
def test_in_training_a_coin_is_thrown_per_row(kind):
    torch.manual_seed(0)
    kept = make(kind).train()(features(*[RARE] * 4000))[KEY]
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    expected = {"fixed": 0.7, "frequency": 0.25}[kind]
    assert kept.mean().item() == pytest.approx(expected, abs=0.03)


def test_the_learnt_gate_gets_a_gradient_through_its_relaxed_coin():
    dropout = make("learnt").train()
    torch.manual_seed(0)
    dropout(features(RARE, FREQUENT))[KEY].sum().backward()
    last = list(dropout.networks.parameters())[-1]
    assert last.grad is not None
    assert last.grad.abs().sum() > 0


def test_the_learnt_gate_starts_at_its_prior():
    (choice,) = make("learnt").choices(features(RARE, FREQUENT, UNSEEN))
    assert choice.keep_probability.tolist() == choice.prior_probability.tolist()
    assert choice.is_seen.tolist() == [True, True, False]


@pytest.mark.parametrize("kind", ["none", "fixed", "frequency"])
def test_gates_that_learn_nothing_cost_nothing(kind):
    assert make(kind).choices(features(RARE)) == []


def test_counts_of_another_vocabulary_are_refused():
    with pytest.raises(ValueError, match="creative_id"):
        AdaptiveDropout(SPEC, SPEC.of("creative"), gate(), {"creative_id": np.ones(5)})


def test_counts_travel_with_the_weights():
    loaded = AdaptiveDropout(SPEC, SPEC.of("creative"), gate("frequency"), None)
    loaded.load_state_dict(make("frequency").state_dict())
    kept = loaded.eval()(features(RARE))[KEY]
    assert kept.tolist() == pytest.approx([10 / 40])
