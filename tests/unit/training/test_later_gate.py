"""A gate that learns from rows later than training."""

import dataclasses

import numpy as np
import pytest
import torch

from cacs_ray.models.selector import Selector
from cacs_ray.training.later_gate import teach_gate
from cacs_ray.training.reporter import PlainReporter
from cacs_ray.training.rows import Rows
from cacs_ray.training.stage import StageInput
from cacs_ray.training.steps import StudentStep
from cacs_ray.training.student import (
    StudentConfig,
    build_student,
    fit_student,
    student_rows,
)
from cacs_ray.training.validation import judge
from tests import synthetic_log
from tests.synthetic_log import (
    SPEC,
    loop_config,
    make_log,
    open_synthetic,
    selector_config,
)


def make_step(signal: str) -> StudentStep:
    config = selector_config("learnt")
    config = config.override({"gate.signal": signal, "gate.kl_weight": 0.0})
    selector = Selector(SPEC, config, synthetic_log.counts(make_log(2000)))
    return StudentStep(
        selector,
        "none",
        distillation_weight=0.0,
        click_weight=1.0,
        listwise_click_weight=0.0,
        temperature=1.0,
    )


def taught(step: StudentStep, later: Rows) -> float:
    return teach_gate(step, later, batch_size=256, seed=0)


def test_only_the_gate_moves():
    step = make_step("later")
    before = {name: p.clone() for name, p in step.named_parameters()}
    assert np.isfinite(taught(step, Rows(make_log(600, 1), "all")))
    moved = {
        name for name, p in step.named_parameters() if not torch.equal(p, before[name])
    }
    assert moved
    assert all("gate.networks" in name for name in moved)
    others = [p for n, p in step.named_parameters() if "gate.networks" not in n]
    assert all(p.requires_grad for p in others)


def test_memory_that_is_wrong_tomorrow_is_trusted_less():
    step = make_step("later")
    selector = step.selector
    log = make_log(600, 1)
    features = log.creative_features(np.arange(1, 49))
    selector.eval()
    key = "creative.creative_id"
    before = selector.gate(features)[key].detach().clone()
    # Clicks that have nothing to do with what the random memory says.
    noise = np.random.default_rng(0).random(len(log)) < 0.2
    later = dataclasses.replace(log, label=noise.astype(np.float32))
    with torch.no_grad():
        # Strong memory that says nothing true.
        for name, parameter in selector.named_parameters():
            if "tables" in name or (name.endswith("weight") and parameter.dim() == 2):
                parameter.mul_(3.0)
    taught(step, Rows(later, "all"))
    selector.eval()
    after = selector.gate(features)[key].detach()
    assert after.mean() < before.mean()


def test_a_gate_of_training_rows_is_left_alone():
    step = make_step("training")
    assert np.isnan(taught(step, Rows(make_log(600, 1), "all")))


def test_training_does_not_move_a_gate_that_learns_later():
    step = make_step("later")
    networks = step.selector.gate.networks
    assert not any(p.requires_grad for p in networks.parameters())


def test_the_metrics_of_a_later_gate_are_those_of_the_selector_that_is_kept(tmp_path):
    inputs = StageInput(
        str(tmp_path), SPEC, synthetic_log.counts(make_log()), open_synthetic
    )
    config = StudentConfig(
        model=selector_config("learnt").override({"gate.signal": "later"}),
        loop=loop_config(num_epochs=2, learning_rate=0.03),
        distillation="none",
        distillation_weight=0.0,
        click_weight=1.0,
        listwise_click_weight=0.0,
        temperature=1.0,
    )
    rows = student_rows(inputs, None, config)
    before: list[float] = []
    reporter = PlainReporter(
        lambda _, told: before.append(told.get("validation/loss", 0.0))
    )
    selector, result = fit_student(inputs, rows, config, reporter)
    kept = build_student(inputs, rows, config)
    kept.selector.load_state_dict(selector.state_dict())
    assert rows[1] is not None
    loss = judge(kept, rows[1], batch_size=500)["loss"]
    assert result.metrics["validation/loss"] == pytest.approx(loss, rel=1e-5)
    assert result.metrics["validation/loss"] not in before
