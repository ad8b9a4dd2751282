"""What row-wise training of the fused table promises."""

import math

import numpy as np
import pytest
import torch

from cacs_ray.models import embeddings
from cacs_ray.models.saved import load_selector, save_selector
from cacs_ray.models.selector import Selector
from cacs_ray.training import tables as module
from cacs_ray.training.exchange import Exchange
from cacs_ray.training.steps import StudentStep
from cacs_ray.training.tables import TableRule, TableTrainer
from tests import synthetic_log
from tests.synthetic_log import SPEC, make_log, selector_config

LOG = make_log(400)
COUNTS = synthetic_log.counts(LOG)
RULE = TableRule(learning_rate=0.3, doubt=1e-4, forgetting=0.05)


def student() -> StudentStep:
    torch.manual_seed(0)
    return StudentStep(
        Selector(SPEC, selector_config("none"), COUNTS),
        "none",
        distillation_weight=0.0,
        click_weight=1.0,
        listwise_click_weight=0.0,
        temperature=1.0,
    )


@pytest.fixture(params=[0, 1024], ids=["all marked", "all gathered whole"])
def small_vocabulary(request, monkeypatch):
    for place in (embeddings, module):
        monkeypatch.setattr(place, "SMALL_VOCABULARY", request.param)


def batches(size: int = 10) -> list:
    order = np.random.default_rng(0).permutation(len(LOG))
    return [LOG.batch(rows, wanted="all") for rows in np.split(order, size)]


def train_by_row(step: StudentStep, factors: list[float]) -> TableTrainer:
    tables = step.selector.tables
    trainer = TableTrainer(tables, RULE, Exchange(1))
    for batch, factor in zip(batches(len(factors)), factors, strict=True):
        with trainer.open(trainer.named_rows(batch)):
            step(batch)["loss"].backward()
            trainer.step(factor)
    trainer.settle()
    return trainer


def train_by_sweep(step: StudentStep, factors: list[float]) -> None:
    """The same rule over the whole table in every step, in plain words."""
    weight = step.selector.tables.weight
    squares = torch.full((len(weight),), RULE.doubt)
    for batch, factor in zip(batches(len(factors)), factors, strict=True):
        weight.grad = None
        step(batch)["loss"].backward()
        with torch.no_grad():
            squares += weight.grad.square().mean(-1)
            rate = RULE.learning_rate * factor / squares.sqrt()
            weight -= rate.unsqueeze(-1) * weight.grad
            is_learnt = (squares != squares.new_tensor(RULE.doubt)).unsqueeze(-1)
            decayed = weight * math.exp(-RULE.forgetting * factor)
            weight.copy_(torch.where(is_learnt, decayed, weight))


def test_rows_that_are_touched_and_swept_tables_learn_the_same(small_vocabulary):
    factors = [0.2, 1.0, 0.7, 0.5, 0.1, 1.0, 1.0, 0.3]
    by_row, by_sweep = student(), student()
    train_by_row(by_row, factors)
    train_by_sweep(by_sweep, factors)
    ours, swept = by_row.selector.tables.weight, by_sweep.selector.tables.weight
    assert torch.allclose(ours, swept, atol=1e-5)
    assert not torch.allclose(ours, student().selector.tables.weight, atol=1e-2)


def test_unknown_values_stay_zero(small_vocabulary):
    step = student()
    train_by_row(step, [1.0] * 5)
    tables = step.selector.tables
    for span in tables.spans.values():
        assert tables.weight[span.start].abs().sum() == 0


def test_only_rows_of_the_batch_are_written(monkeypatch):
    for place in (embeddings, module):
        monkeypatch.setattr(place, "SMALL_VOCABULARY", 0)
    step = student()
    tables = step.selector.tables
    before = tables.weight.detach().clone()
    trainer = TableTrainer(tables, RULE, Exchange(1))
    batch = LOG.batch(np.arange(3), wanted="all")
    with trainer.open(trainer.named_rows(batch)):
        step(batch)["loss"].backward()
        trainer.step(1.0)
    is_changed = (tables.weight != before).any(-1)
    assert 0 < is_changed.sum() < len(before) / 2


def test_outside_of_a_step_nothing_is_gathered():
    step = student()
    trainer = TableTrainer(step.selector.tables, RULE, Exchange(1))
    with trainer.open(trainer.named_rows(batches()[0])):
        assert step.selector.tables.gathered is not None
    assert step.selector.tables.gathered is None


def test_state_put_back_goes_on_alike():
    factors = [1.0, 0.5, 1.0, 0.25]
    whole = student()
    train_by_row(whole, factors)
    first, second = student(), student()
    trainer = TableTrainer(first.selector.tables, RULE, Exchange(1))
    for number, (batch, factor) in enumerate(zip(batches(4), factors, strict=True)):
        if number == 2:
            second.load_state_dict(first.state_dict())
            state = {name: t.clone() for name, t in trainer.state().items()}
            trainer = TableTrainer(second.selector.tables, RULE, Exchange(1))
            trainer.load(state)
        step = first if number < 2 else second
        with trainer.open(trainer.named_rows(batch)):
            step(batch)["loss"].backward()
            trainer.step(factor)
    trainer.settle()
    assert torch.equal(second.selector.tables.weight, whole.selector.tables.weight)


def test_sixteen_bits_are_right_on_average():
    torch.manual_seed(0)
    values = torch.full((200_000,), 1.001)  # between 1 and 1 + 1/128
    rounded = module._rounded(values, torch.bfloat16).float()
    assert set(rounded.tolist()) == {1.0, 1.0078125}
    assert rounded.mean().item() == pytest.approx(1.001, abs=1e-4)


def test_a_table_of_sixteen_bits_learns_what_one_of_32_learns():
    factors = [0.2, 1.0, 0.7, 0.5, 0.1, 1.0, 1.0, 0.3]
    whole, half = student(), student()
    tables = half.selector.tables
    tables.weight.data = tables.weight.data.to(torch.bfloat16)
    train_by_row(whole, factors)
    train_by_row(half, factors)
    assert tables.weight.dtype == torch.bfloat16
    ours, theirs = tables.weight.float(), whole.selector.tables.weight
    assert torch.corrcoef(torch.stack([ours.ravel(), theirs.ravel()]))[0, 1] > 0.99


def test_a_selector_of_sixteen_bits_comes_back_from_disk(tmp_path):
    config = selector_config("none").override({"storage": "bfloat16"})
    selector = Selector(SPEC, config, COUNTS).eval()
    save_selector(tmp_path, selector, SPEC)
    again = load_selector(tmp_path, SPEC)
    assert again.tables.weight.dtype == torch.bfloat16
    batch = LOG.batch(np.arange(20))
    vectors = selector.creative_vectors(batch.creatives)
    assert torch.equal(again.creative_vectors(batch.creatives), vectors)
