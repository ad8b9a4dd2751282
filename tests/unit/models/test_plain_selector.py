"""The selector in plain arrays scores as the selector does."""

import numpy as np
import pytest
import torch

from cacs_ray.features.batch import as_tensors
from cacs_ray.features.spec import FeatureSpec, FieldSpec
from cacs_ray.models.plain_selector import MOST_KEPT, PlainSelector
from cacs_ray.models.selector import Selector
from tests.synthetic_log import NUM_STYLES, SPEC, make_log, selector_config

SUBSETS = {
    "everything": [field.key for field in SPEC.fields],
    "no user": ["request.hour", "ad.topic", "creative.creative_id"],
    "no context at all": ["creative.creative_id", "creative.picture"],
    "a list alone": ["user.recent", "creative.picture"],
    "only numbers": ["request.hour", "creative.picture"],
    "a category of the request": [
        *("user.taste", "request.hour", "request.device", "creative.picture"),
    ],
}
DEVICE, PAGE = (
    FieldSpec(name=name, of="request", kind="category", column="d", vocabulary="style")
    for name in ("device", "page")
)
LISTS = np.array([[1, 2, 3], [4, 0, 0]], np.int32)


def trained(keys, **changes):
    """A selector whose every weight counts, biases too."""
    torch.manual_seed(1)
    config = selector_config().model_copy(update=changes)
    fields = tuple(one for one in (*SPEC.fields, DEVICE, PAGE) if one.key in keys)
    spec = FeatureSpec(fields=fields, vocabularies=SPEC.vocabularies)
    selector = Selector(spec, config).eval()
    with torch.no_grad():
        for name, weight in selector.named_parameters():
            if name != "tables.weight":
                weight.copy_(torch.randn_like(weight))
    return selector, torch.randn(5, config.vector_size)


def contexts(keys, number=20):
    """Yield the encoded user and request of single rows, and which user it is."""
    log = make_log(number)
    batch = log.batch(np.arange(number))
    for row, user in enumerate(log.user_row.tolist()):
        context = {
            key: value[row : row + 1].numpy()
            for key, value in batch.context.items()
            if key in keys and key.partition(".")[0] in ("user", "request")
        }
        if DEVICE.key in keys:
            context[DEVICE.key] = np.array([row % (NUM_STYLES + 1)])
        yield context, user


def plain_selector(keys, selector, vectors, **changes):
    users = {key: v for key, v in make_log(20).users.items() if key in keys}
    return PlainSelector(selector, vectors, users, **changes)


@pytest.mark.parametrize("keys", SUBSETS.values(), ids=SUBSETS)
@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize("most_kept", [MOST_KEPT, 0])
def test_it_scores_as_the_selector_does(keys, storage, most_kept):
    selector, vectors = trained(keys, storage=storage)
    plain = plain_selector(keys, selector, vectors, most_kept=most_kept)
    scores = []
    for context, user in contexts(keys):
        with torch.inference_mode():
            users = selector.user_vectors(as_tensors(context))
            expected = selector.score(users, vectors, torch.from_numpy(LISTS).long())
        scores.append(plain.score(context, LISTS, user))
        assert scores[-1].dtype == np.float32
        np.testing.assert_allclose(scores[-1], expected, rtol=1e-4, atol=1e-4)
    # Not the same for everybody, unless nothing is known of anybody.
    is_told_apart = len({one.tobytes() for one in scores}) > 1
    assert is_told_apart == (keys != SUBSETS["no context at all"])


def test_users_are_scored_alike_to_the_last_bit_whether_they_are_kept_or_not():
    keys = SUBSETS["everything"]
    selector, vectors = trained(keys)
    kept = plain_selector(keys, selector, vectors)
    none_kept = plain_selector(keys, selector, vectors, most_kept=100)
    assert none_kept._users is None
    for context, user in contexts(keys):
        expected = kept.score(context, LISTS, user)
        assert (none_kept.score(context, LISTS, user) == expected).all()
        assert (kept.score(context, LISTS) == expected).all()


def test_users_and_request_fields_share_what_may_be_kept():
    keys = SUBSETS["a category of the request"]
    selector, vectors = trained(keys)
    size = plain_selector(keys, selector, vectors)._users.size
    plain = plain_selector(keys, selector, vectors, most_kept=size)
    assert plain._users is not None
    assert plain._values == []
    keys = [DEVICE.key, PAGE.key, "creative.picture"]
    selector, vectors = trained(keys)
    (_, rows), _ = plain_selector(keys, selector, vectors)._values
    plain = plain_selector(keys, selector, vectors, most_kept=rows.size)
    assert [key for key, _ in plain._values] == [DEVICE.key]


def test_a_kept_user_is_told_by_their_row_alone():
    keys = SUBSETS["everything"]
    selector, vectors = trained(keys)
    plain = plain_selector(keys, selector, vectors)
    context, user = next(contexts(keys))
    requested = {k: v for k, v in context.items() if k.startswith("request.")}
    expected = plain.user_vector(context)
    np.testing.assert_array_equal(plain.user_vector(requested, user), expected)


def test_unknown_users_and_empty_lists_are_zero_vectors():
    keys = SUBSETS["everything"]
    selector, vectors = trained(keys)
    context, _ = next(contexts(keys))
    blank = {key: np.zeros_like(value) for key, value in context.items()}
    with torch.inference_mode():
        expected = selector.user_vectors(as_tensors(blank))[0]
    plain = plain_selector(keys, selector, vectors)
    for found in (plain.user_vector(blank), plain.user_vector(blank, 0)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_appeal_of_a_creative_counts_for_all():
    keys = SUBSETS["everything"]
    plain = plain_selector(keys, *trained(keys))
    for context, user in contexts(keys, 3):
        assert plain.user_vector(context, user)[-1] == 1.0


def test_no_table_is_copied_for_it():
    keys = SUBSETS["everything"]
    selector, vectors = trained(keys)
    plain = plain_selector(keys, selector, vectors, most_kept=0)
    with torch.no_grad():
        selector.tables.weight.zero_()
    assert np.shares_memory(plain._creative_vectors, vectors.numpy())
    assert not plain._of_user._table[np.arange(3)].any()


def test_creatives_that_nothing_tells_apart_tie():
    keys = SUBSETS["everything"]
    selector, vectors = trained(keys, vector_size=32)
    vectors[1:] = vectors[1]
    plain = plain_selector(keys, selector, vectors)
    lists = np.tile(np.array([1, 2, 3], np.int32), (50, 1))
    for context, user in contexts(keys):
        scores = plain.score(context, lists, user)
        assert (scores == scores[0, 0]).all()
