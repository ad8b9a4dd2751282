"""What the dropout gate promises."""

import numpy as np
import pytest
import torch

from cacs_ray.models.adaptive_dropout import AdaptiveDropout
from tests import synthetic_log
from tests.synthetic_log import SPEC, gate

KEY = "creative.creative_id"
RARE, FREQUENT, UNSEEN = 1, 2, 3
NUM_CREATIVES = 48


def make(kind: str, cold_share: float | None = 0.0) -> AdaptiveDropout:
    counts = np.zeros(1 + NUM_CREATIVES)
    counts[[0, RARE, FREQUENT]] = 99.0, 10.0, 3000.0
    fields = tuple(f for f in SPEC.of("creative") if f.kind in ("id", "vector"))
    return AdaptiveDropout(
        SPEC, fields, gate(kind, cold_share), {"creative_id": counts}
    )


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


@pytest.mark.parametrize("kind", KINDS)
def test_some_training_rows_forget_what_is_new_tomorrow(kind):
    dropout = make(kind, cold_share=None).train()
    dropout.expect_cold({"creative": 0.4})
    torch.manual_seed(0)
    kept = dropout(features(*[FREQUENT] * 4000))[KEY]
    expected = {"none": 1.0, "fixed": 0.7}.get(kind, 3000 / 3030)
    assert (kept == 0).float().mean() == pytest.approx(
        1 - 0.6 * (1.0 if kind == "learnt" else expected), abs=0.03
    )
    # A decision is not made cold: the creative is as well known as it is.
    decided = dropout.eval()(features(FREQUENT))[KEY]
    assert decided.tolist() == pytest.approx([expected])


def test_a_cold_row_forgets_all_its_identities_at_once():
    dropout = AdaptiveDropout(
        SPEC, SPEC.of("creative", "ad"), gate("none", 0.5), synthetic_log.counts()
    )
    torch.manual_seed(0)
    ad_id = {"ad.ad_id": torch.ones(500, dtype=torch.int64)}
    kept = dropout.train()(features(*[RARE] * 500) | ad_id)
    assert set(kept[KEY].tolist()) == {0.0, 1.0}
    assert kept[KEY].tolist() == kept["ad.ad_id"].tolist()


def test_a_configured_cold_share_is_not_replaced_by_a_measured_one():
    dropout = make("none", cold_share=0.0).train()
    dropout.expect_cold({"creative": 0.9})
    assert dropout(features(*[FREQUENT] * 50))[KEY].tolist() == [1.0] * 50


def test_memory_stays_trained_where_all_is_new_tomorrow():
    dropout = make("none", cold_share=None).train()
    dropout.expect_cold({"creative": 1.0})
    torch.manual_seed(0)
    assert dropout(features(*[FREQUENT] * 500))[KEY].sum() > 0


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
