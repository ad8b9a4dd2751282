"""What a saved model promises."""

import json

import numpy as np
import pytest
import torch

from cacs_ray.errors import InputError
from cacs_ray.models.ranker import Ranker
from cacs_ray.models.saved import (
    load_ranker,
    load_selector,
    save_ranker,
    save_selector,
)
from cacs_ray.models.selector import Selector
from tests import synthetic_log
from tests.synthetic_log import SPEC, make_log, ranker_config, selector_config, spec_of


def test_a_saved_selector_scores_as_before(tmp_path):
    log = make_log(20)
    selector = Selector(SPEC, selector_config("learnt"), synthetic_log.counts(log))
    selector.eval()
    save_selector(tmp_path, selector, SPEC)
    features = log.creative_features(np.arange(10))
    loaded = load_selector(tmp_path, SPEC)
    assert torch.equal(
        loaded.creative_vectors(features), selector.creative_vectors(features)
    )


@pytest.mark.parametrize("sharing", ["own", "frozen", "fine_tuned", "joint"])
def test_a_saved_ranker_scores_as_before(tmp_path, sharing):
    batch = make_log(20).batch(np.arange(20))
    shared = selector_config()
    config = ranker_config("frequency", sharing=sharing)
    ranker = Ranker(SPEC, config, synthetic_log.counts(), shared).eval()
    save_ranker(tmp_path, ranker, SPEC, shared)
    vectors = torch.randn(len(batch.catalogue_rows), 9)
    inputs = (batch.context, batch.creatives, batch.creative_index, None, vectors)
    assert torch.equal(load_ranker(tmp_path, SPEC)(*inputs), ranker(*inputs))


def test_another_spec_is_refused(tmp_path):
    save_selector(tmp_path, Selector(SPEC, selector_config()), SPEC)
    with pytest.raises(InputError, match="other features"):
        load_selector(tmp_path, spec_of("creative.creative_id"))


def test_torn_weights_are_named(tmp_path):
    save_selector(tmp_path, Selector(SPEC, selector_config()), SPEC)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_selector(tmp_path, SPEC)


def test_an_unknown_field_in_the_sizes_is_refused(tmp_path):
    save_selector(tmp_path, Selector(SPEC, selector_config()), SPEC)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"extra": 1}))
    with pytest.raises(InputError, match="model_config"):
        load_selector(tmp_path, SPEC)
