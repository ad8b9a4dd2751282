"""What the ranker promises."""

import numpy as np
import pytest
import torch

from cacs_ray.models.ranker import Ranker
from tests import synthetic_log
from tests.synthetic_log import SPEC, make_log, ranker_config, selector_config, spec_of
from tests.unit.models.test_selector import SUBSETS


def make(**changes: object) -> Ranker:
    torch.manual_seed(0)
    config = ranker_config(**changes)
    return Ranker(SPEC, config, synthetic_log.counts(), selector_config()).eval()


@pytest.mark.parametrize("keys", [*SUBSETS.values(), ["user.user_id"]])
@pytest.mark.parametrize("kind", ["none", "learnt"])
def test_any_subset_of_fields_is_scored(keys, kind):
    log = make_log(20)
    ranker = Ranker(spec_of(*keys), ranker_config(kind), synthetic_log.counts(log))
    batch = log.batch(np.arange(20))
    context = {k: v for k, v in batch.context.items() if k in keys}
    creatives = {k: v for k, v in batch.creatives.items() if k in keys}
    if not creatives:  # ads have no field either: the blank row stands for all
        creatives = {"none": torch.zeros(len(batch.catalogue_rows))}

    logits = ranker(context, creatives, batch.creative_index, batch.slot)

    assert logits.shape == batch.creative_index.shape
    assert logits.isfinite().all()


def test_the_position_is_left_out_without_a_slot():
    ranker = make()
    with torch.no_grad():
        ranker.position.beyond_first.fill_(-1.0)
    batch = make_log(30).batch(np.arange(30))
    inputs = (batch.context, batch.creatives, batch.creative_index)
    difference = ranker(*inputs, batch.slot) - ranker(*inputs)
    expected = -(batch.slot > 0).float().unsqueeze(-1).expand_as(difference)
    assert torch.allclose(difference, expected, atol=1e-6)


def test_scores_of_a_list_do_not_depend_on_its_neighbours():
    ranker, log = make(), make_log(30)
    many = log.batch(np.arange(30))
    one = log.batch(np.array([7]))
    among = ranker(many.context, many.creatives, many.creative_index)[7]
    alone = ranker(one.context, one.creatives, one.creative_index)[0]
    assert torch.allclose(among[: len(alone)], alone, atol=1e-6)


def test_an_unknown_creative_is_the_same_for_every_list():
    ranker = make()
    batch = make_log(30).batch(np.arange(30))
    blank = torch.zeros_like(batch.creative_index)
    logits = ranker(batch.context, batch.creatives, blank)
    assert torch.equal(logits[:, 0], logits[:, 1])


def test_blanking_hides_creatives_in_training_only():
    ranker = make(blank_share=0.5)
    batch = make_log(400).batch(np.arange(400), wanted="shown")
    inputs = (batch.context, batch.creatives)
    shown = ranker(*inputs, batch.creative_index)
    hidden = ranker(*inputs, torch.zeros_like(batch.creative_index))

    torch.manual_seed(0)
    trained = ranker.train()(*inputs, batch.creative_index)

    is_hidden = torch.isclose(trained, hidden).squeeze(1)
    assert 0.4 < is_hidden.float().mean().item() < 0.6
    assert torch.allclose(trained[~is_hidden], shown[~is_hidden])


@pytest.mark.parametrize("sharing", ["frozen", "joint"])
@pytest.mark.parametrize("keeps_own_fields", [True, False])
def test_sharing_reads_the_given_vectors(keeps_own_fields, sharing):
    ranker = make(sharing=sharing, keeps_own_fields=keeps_own_fields)
    batch = make_log(30).batch(np.arange(30))
    inputs = (batch.context, batch.creatives, batch.creative_index, None)
    vectors = torch.zeros(len(batch.catalogue_rows), 9)
    assert not torch.equal(ranker(*inputs, vectors), ranker(*inputs, vectors + 1))
    with pytest.raises(ValueError, match="creative_vectors"):
        ranker(*inputs)


def test_shared_vectors_alone_leave_the_creatives_fields_unread():
    ranker = make(sharing="frozen", keeps_own_fields=False)
    batch = make_log(30).batch(np.arange(30))
    vectors = torch.randn(len(batch.catalogue_rows), 9)
    logits = ranker(batch.context, {}, batch.creative_index, None, vectors)
    assert logits.isfinite().all()


def test_fine_tuned_sharing_trains_a_tower_of_its_own():
    ranker = make(sharing="fine_tuned", keeps_own_fields=False)
    batch = make_log(30).batch(np.arange(30))
    ranker(batch.context, batch.creatives, batch.creative_index).sum().backward()
    assert ranker.tower is not None
    assert ranker.tower.creative_tower.out.weight.grad is not None


def test_attention_prefers_what_the_ad_is_about():
    # Topic 2 is asked for; the list holds it once: the share is one half.
    ranker = make()
    (interest,) = ranker.interests
    context = {
        "user.recent": torch.tensor([[2, 3, 0], [0, 0, 0]]),
        "ad.topic": torch.tensor([2, 2]),
    }
    with torch.no_grad():
        table = ranker.tables.table(SPEC.of("ad")[0])
        table[2], table[3] = 3.0, -3.0
    seen = interest(context, ranker.tables)
    dim = 8
    assert seen[0, -1].item() == 0.5
    assert seen[0, :dim].tolist() == pytest.approx([3.0] * dim, abs=0.01)
    assert seen[1].abs().sum().item() == 0


def test_attention_by_value_is_attention_by_place(monkeypatch):
    ranker = make()
    (interest,) = ranker.interests
    context = make_log(200).batch(np.arange(200)).context
    by_value = interest(context, ranker.tables)
    mean = ranker.tables.mean(interest.interest, context["user.recent"])

    monkeypatch.setattr(ranker.tables, "is_small", lambda *_: False)

    assert torch.allclose(by_value, interest(context, ranker.tables), atol=1e-6)
    by_place = ranker.tables.mean(interest.interest, context["user.recent"])
    assert torch.allclose(mean, by_place, atol=1e-6)
