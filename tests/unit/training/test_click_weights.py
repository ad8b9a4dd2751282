"""Weights of the click loss under a log that did not choose uniformly."""

import dataclasses

import numpy as np
import pytest
import torch

from cacs_ray.models.ranker import Ranker
from cacs_ray.models.selector import Selector
from cacs_ray.training.steps import RankerStep, StudentStep, click_weights
from tests import synthetic_log
from tests.synthetic_log import SPEC, make_log, ranker_config, selector_config


@pytest.fixture
def batch():
    log = make_log(4)
    batch = log.batch(np.arange(4))
    length = int(batch.list_length[0])
    propensity = torch.tensor([1 / length, 0.5 / length, 1.0, torch.nan])
    return dataclasses.replace(batch, propensity=propensity)


def test_without_a_clip_rows_count_as_impressions(batch):
    assert click_weights(batch, None) is batch.weight


def test_rows_count_as_under_uniform_choice(batch):
    uniform = 1 / int(batch.list_length[0])
    expected = torch.tensor([1.0, 2.0, uniform, 1.0])
    torch.testing.assert_close(click_weights(batch, 10.0), expected)


def test_a_rare_choice_counts_no_more_than_the_clip(batch):
    assert click_weights(batch, 1.5)[1].item() == pytest.approx(1.5)


def test_weighted_clicks_are_unbiased_for_uniform_choice():
    # Two creatives, the second shown once in ten; its CTR is 0.4, the first's 0.2.
    rng = np.random.default_rng(0)
    shown = (rng.random(200_000) < 0.1).astype(int)
    label = rng.random(200_000) < np.where(shown, 0.4, 0.2)
    one = make_log(1).batch(np.zeros(200_000, int))
    logged = dataclasses.replace(
        one,
        list_length=torch.full((200_000,), 2),
        propensity=torch.from_numpy(np.where(shown, 0.1, 0.9)),
    )
    weight = click_weights(logged, 20.0).double().numpy()
    assert weight @ label / weight.sum() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("kind", ["student", "ranker"])
def test_what_is_judged_is_the_plain_loss_whatever_training_weighs(batch, kind):
    def step(clip):
        torch.manual_seed(0)
        if kind == "ranker":
            ranker = Ranker(SPEC, ranker_config("none"), synthetic_log.counts())
            return RankerStep(ranker, importance_clip=clip)
        selector = Selector(SPEC, selector_config("none"), synthetic_log.counts())
        return StudentStep(
            selector,
            "none",
            distillation_weight=0.0,
            click_weight=1.0,
            listwise_click_weight=0.0,
            temperature=1.0,
            importance_clip=clip,
        )

    plain, weighted = step(None), step(10.0)
    batch = dataclasses.replace(batch, label=torch.tensor([1.0, 0.0, 1.0, 0.0]))
    for is_training in (True, False):
        costs, totals = (
            [
                getattr(one.train(is_training), name)(batch)["click_loss"].item()
                for one in (plain, weighted)
            ]
            for name in ("parts", "totals")
        )
        assert (costs[0] != costs[1]) == is_training
        assert (totals[0] != totals[1]) == is_training
