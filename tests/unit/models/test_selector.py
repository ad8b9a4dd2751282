"""What the selector promises."""

import functools

import numpy as np
import pytest
import torch

from cacs_ray.models.selector import Selector
from tests import synthetic_log
from tests.synthetic_log import SPEC, make_log, selector_config, spec_of

SUBSETS = {
    "everything": [field.key for field in SPEC.fields],
    "no user": ["request.hour", "ad.topic", "creative.creative_id"],
    "no context at all": ["creative.creative_id", "creative.picture"],
    "no content": ["user.user_id", "ad.ad_id", "creative.creative_id"],
    "only an id": ["creative.creative_id"],
    "only content": ["creative.picture"],
    "only the ad": ["ad.topic"],
}


@pytest.mark.parametrize("keys", SUBSETS.values(), ids=SUBSETS)
@pytest.mark.parametrize("kind", ["none", "fixed", "frequency", "learnt"])
def test_any_subset_of_fields_is_scored(keys, kind):
    log, spec = make_log(20), spec_of(*keys)
    selector = Selector(spec, selector_config(kind), synthetic_log.counts(log))
    batch = log.batch(np.arange(20))
    context = {k: v for k, v in batch.context.items() if k in keys}
    creatives = {k: v for k, v in batch.creatives.items() if k in keys}

    scores = selector.score(
        selector.user_vectors(context),
        selector.creative_vectors(creatives),
        batch.creative_index,
    )

    assert scores.shape == batch.creative_index.shape
    assert scores.isfinite().all()
    assert selector.click_offset(context).shape in [(20,), (1,)]


def test_a_spec_that_cannot_tell_creatives_apart_is_refused():
    with pytest.raises(ValueError, match="creative or ad field"):
        Selector(spec_of("user.user_id"), selector_config())


def test_the_score_is_the_dot_product_of_the_two_vectors():
    selector = Selector(SPEC, selector_config())
    users, creatives = torch.randn(2, 9), torch.randn(3, 9)
    scores = selector.score(users, creatives, torch.tensor([[1, 2], [2, 0]]))
    # A sum of nine products may cancel to almost nothing, so the error is absolute.
    near = functools.partial(pytest.approx, abs=1e-5)
    assert scores[0, 1].item() == near((users[0] @ creatives[2]).item())
    assert scores[1, 0].item() == near((users[1] @ creatives[2]).item())


def test_creative_vectors_do_not_depend_on_the_batch():
    log = make_log(50)
    selector = Selector(SPEC, selector_config("learnt"), synthetic_log.counts(log))
    selector.eval()
    alone = selector.creative_vectors(log.creative_features(np.array([5])))
    among = selector.creative_vectors(log.creative_features(np.arange(49)))
    assert torch.allclose(alone[0], among[5], atol=1e-6)


def test_the_users_last_coordinate_is_one_so_that_appeal_counts_for_all():
    selector = Selector(SPEC, selector_config())
    batch = make_log(5).batch(np.arange(5))
    assert selector.user_vectors(batch.context)[:, -1].tolist() == [1.0] * 5


def test_freezing_leaves_what_creative_vectors_are_made_of():
    selector = Selector(SPEC, selector_config())
    selector.freeze_all_but_creatives()
    batch = make_log(50).batch(np.arange(50))
    selector.creative_vectors(batch.creatives).sum().backward()
    trained = {n for n, p in selector.named_parameters() if p.requires_grad}
    touched = {n for n, p in selector.named_parameters() if p.grad is not None}
    assert trained == touched
    assert not any(name.startswith("user_tower") for name in trained)
