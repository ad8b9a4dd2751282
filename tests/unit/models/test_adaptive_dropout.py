"""What the dropout gate promises."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from cacs_ray.models.adaptive_dropout import (
    AdaptiveDropout,
    frequency_logits,
    relaxed_coin,
)
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


def test_the_frequency_rule_is_n_over_n_plus_k():
    shown = torch.tensor([1.0, 10.0, 3000.0])
    expected = [n / (n + 30) for n in (1, 10, 3000)]
    kept = frequency_logits(shown, 30.0).sigmoid()
    assert kept.tolist() == pytest.approx(expected)
    assert frequency_logits(torch.zeros(1), 30.0).isfinite().all()


def test_a_relaxed_coin_is_the_formula():
    logit, uniform, tau = 0.7, 0.3, 0.5
    noise = np.log(uniform / (1 - uniform))
    expected = 1 / (1 + np.exp(-(logit + noise) / tau))
    actual = relaxed_coin(torch.tensor([logit]), torch.tensor([uniform]), tau)
    assert actual.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("relaxation", [0.01, 0.5, 2.0])
def test_a_relaxed_coin_keeps_as_often_as_it_says(relaxation):
    # Evenly spread numbers: exactly their share above 1 - .8 is kept.
    uniform = (torch.arange(1000) + 0.5) / 1000
    logits = torch.full((1000,), 0.8).logit()
    kept = relaxed_coin(logits, uniform, relaxation) > 0.5
    assert kept.float().mean().item() == pytest.approx(0.8)


def test_a_relaxed_coin_passes_a_finite_gradient_whatever_was_drawn():
    logits = torch.zeros(3, requires_grad=True)
    relaxed_coin(logits, torch.tensor([0.0, 0.5, 1.0]), 0.5).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[1] > 0


def test_the_order_of_the_rows_has_no_say_in_a_gate():
    dropout = make("learnt").eval()
    plain = dropout(features(RARE, FREQUENT, UNSEEN))[KEY]
    turned = dropout(features(UNSEEN, FREQUENT, RARE))[KEY]
    assert turned.flip(0).tolist() == plain.tolist()


def test_a_wrong_shape_is_refused():
    with pytest.raises(TypeCheckError):
        frequency_logits(torch.ones(2, 2), 30.0)
    with pytest.raises(TypeCheckError):
        relaxed_coin(torch.zeros(2), torch.zeros(3), 0.5)
