"""The selector in plain arrays scores as the selector does."""

import numpy as np
import pytest
import torch

from cacs_ray.features.batch import as_tensors
from cacs_ray.models.plain_selector import PlainSelector
from cacs_ray.models.selector import Selector
from tests.synthetic_log import SPEC, make_log, selector_config, spec_of

SUBSETS = {
    "everything": [field.key for field in SPEC.fields],
    "no user": ["request.hour", "ad.topic", "creative.creative_id"],
    "no context at all": ["creative.creative_id", "creative.picture"],
    "a list alone": ["user.recent", "creative.picture"],
    "only numbers": ["request.hour", "creative.picture"],
}
LISTS = np.array([[1, 2, 3], [4, 0, 0]], np.int32)


def trained(keys, **changes):
    """A selector whose every weight counts, biases too."""
    torch.manual_seed(1)
    config = selector_config().model_copy(update=changes)
    selector = Selector(spec_of(*keys), config).eval()
    with torch.no_grad():
        for name, weight in selector.named_parameters():
            if name != "tables.weight":
                weight.copy_(torch.randn_like(weight))
    return selector, torch.randn(5, config.vector_size)


def contexts(keys, number=20):
    """Yield the encoded user and request of single rows."""
    batch = make_log(number).batch(np.arange(number))
    for row in range(number):
        yield {
            key: value[row : row + 1].numpy()
            for key, value in batch.context.items()
            if key in keys and key.partition(".")[0] in ("user", "request")
        }


@pytest.mark.parametrize("keys", SUBSETS.values(), ids=SUBSETS)
@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_it_scores_as_the_selector_does(keys, storage):
    selector, vectors = trained(keys, storage=storage)
    plain = PlainSelector(selector, vectors)
    scores = []
    for context in contexts(keys):
        with torch.inference_mode():
            users = selector.user_vectors(as_tensors(context))
            expected = selector.score(users, vectors, torch.from_numpy(LISTS).long())
        scores.append(plain.score(context, LISTS))
        assert scores[-1].dtype == np.float32
        np.testing.assert_allclose(scores[-1], expected, rtol=1e-4, atol=1e-4)
    # Not the same for everybody, unless nothing is known of anybody.
    is_told_apart = len({one.tobytes() for one in scores}) > 1
    assert is_told_apart == (keys != SUBSETS["no context at all"])


def test_unknown_users_and_empty_lists_are_zero_vectors():
    keys = SUBSETS["everything"]
    selector, vectors = trained(keys)
    blank = {key: np.zeros_like(value) for key, value in next(contexts(keys)).items()}
    with torch.inference_mode():
        expected = selector.user_vectors(as_tensors(blank))[0]
    found = PlainSelector(selector, vectors).user_vector(blank)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_appeal_of_a_creative_counts_for_all():
    keys = SUBSETS["everything"]
    selector, vectors = trained(keys)
    for context in contexts(keys, 3):
        assert PlainSelector(selector, vectors).user_vector(context)[-1] == 1.0


def test_no_weight_is_copied_for_it_but_the_towers_first_layer():
    selector, vectors = trained(SUBSETS["everything"])
    plain = PlainSelector(selector, vectors)
    with torch.no_grad():
        selector.tables.weight.zero_()
    assert np.shares_memory(plain._creative_vectors, vectors.numpy())
    rows = plain._encoder._table[np.arange(3)]
    assert not rows.any()


def test_creatives_that_nothing_tells_apart_tie():
    keys = SUBSETS["everything"]
    selector, vectors = trained(keys, vector_size=32)
    vectors[1:] = vectors[1]
    plain = PlainSelector(selector, vectors)
    lists = np.tile(np.array([1, 2, 3], np.int32), (50, 1))
    for context in contexts(keys):
        scores = plain.score(context, lists)
        assert (scores == scores[0, 0]).all()
