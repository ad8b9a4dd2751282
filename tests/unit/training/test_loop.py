"""What the training loop promises."""

from collections import Counter

import numpy as np
import pytest
import torch

from cacs_ray.models.ranker import Ranker
from cacs_ray.models.selector import Selector
from cacs_ray.training.checkpoint import CheckpointStore
from cacs_ray.training.loop import fit
from cacs_ray.training.optimizer import learning_rate_factor
from cacs_ray.training.reporter import PlainReporter
from cacs_ray.training.rows import Rows
from cacs_ray.training.steps import RankerStep, Step, StudentStep
from tests import synthetic_log
from tests.synthetic_log import (
    SPEC,
    loop_config,
    make_log,
    ranker_config,
    selector_config,
)

LOG = make_log(1000)
COUNTS = synthetic_log.counts(LOG)
TRAIN = Rows(LOG, wanted="all")
VALIDATION = Rows(make_log(300, seed=1), wanted="all")


class Killed(BaseException):
    """Stands for the death of the process."""


class RecordingReporter(PlainReporter):
    """Keeps what it is told; dies at a given step."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__(self.note)
        self.seen: dict[int, dict[str, float]] = {}
        self.dies_at = dies_at

    def note(self, step: int, metrics: dict[str, float]) -> None:
        if self.dies_at is not None and step >= self.dies_at:
            raise Killed
        self.seen[step] = {
            name: value
            for name, value in metrics.items()
            if name != "rows_per_second" and not name.startswith("step_ms/")
        }


def student(kind: str = "learnt") -> StudentStep:
    torch.manual_seed(0)
    return StudentStep(
        Selector(SPEC, selector_config(kind), COUNTS),
        "none",
        distillation_weight=0.0,
        click_weight=1.0,
        listwise_click_weight=0.0,
        temperature=1.0,
    )


def weights(step: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in step.state_dict().items()}


def assert_equal_bits(left, right) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("dies_at", [1, 2, 4, 5, 7])
def test_killed_and_resumed_is_bit_equal_to_undisturbed(tmp_path, dies_at):
    config = loop_config(
        num_epochs=3,
        batch_size=300,
        report_every_steps=1,
        checkpoint_every_steps=2,
        schedule="cosine",
        num_warmup_steps=3,
    )
    undisturbed, whole = student(), RecordingReporter()
    expected = fit(undisturbed, TRAIN, VALIDATION, config, whole)

    store = CheckpointStore(tmp_path, "run")
    with pytest.raises(Killed):
        fit(student(), TRAIN, VALIDATION, config, RecordingReporter(dies_at), store)
    resumed, rest = student(), RecordingReporter()
    actual = fit(resumed, TRAIN, VALIDATION, config, rest, store)

    assert_equal_bits(weights(undisturbed), weights(resumed))
    assert actual.metrics == expected.metrics
    for step, metrics in rest.seen.items():
        assert metrics == whole.seen[step]


def test_a_finished_run_is_not_trained_again(tmp_path):
    store = CheckpointStore(tmp_path, "run")
    first, again = student(), student()
    fit(first, TRAIN, VALIDATION, loop_config(), PlainReporter(), store)
    reporter = RecordingReporter()
    fit(again, TRAIN, VALIDATION, loop_config(), reporter, store)
    assert reporter.seen == {}
    assert_equal_bits(weights(first), weights(again))


def test_the_same_seed_gives_the_same_weights_and_another_gives_others():
    runs = []
    for seed in (0, 0, 1):
        step = student()
        fit(step, TRAIN, None, loop_config(seed=seed), PlainReporter())
        runs.append(weights(step))
    assert_equal_bits(runs[0], runs[1])
    assert not torch.equal(
        runs[0]["selector.user_tower.out.weight"],
        runs[2]["selector.user_tower.out.weight"],
    )


def test_the_callers_randomness_is_left_alone():
    step = student()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(step, TRAIN, None, loop_config(num_epochs=1), PlainReporter())
    assert torch.equal(torch.rand(3), expected)


class CountingStep(Step):
    """Learns nothing, remembers which rows it saw (by their hour)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: Counter[float] = Counter()
        self.losses = iter([3.0, 1.0, 2.0, 2.0, 2.0])

    @property
    def prices(self) -> dict[str, float]:
        return {"click_loss": 1.0}

    def parts(self, batch) -> dict[str, torch.Tensor]:
        if self.training:
            self.seen.update(batch.context["request.hour"][:, 0].tolist())
            return {"click_loss": self.weight * 0.0 + 1.0}
        return {"click_loss": torch.tensor(next(self.losses))}

    def totals(self, batch) -> dict[str, torch.Tensor]:
        return {"click_loss": batch.weight.sum()}


class Worker(PlainReporter):
    num_workers = 3

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank


@pytest.mark.parametrize("num_rows", [3, 10, 64, 101])
def test_no_row_twice_and_none_lost_over_workers(num_rows, monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda _: None)
    log = make_log(num_rows)
    seen: Counter[float] = Counter()
    for rank in range(3):
        step = CountingStep()
        config = loop_config(num_epochs=1, batch_size=20)
        fit(step, Rows(log, wanted="all"), None, config, Worker(rank))
        seen.update(step.seen)
    assert seen == Counter(log.requests["request.hour"][:, 0].tolist())


def test_it_stops_when_patience_is_over_and_keeps_the_best():
    # Validation losses 3, 1, 2, 2: epoch 1 is best, two epochs later it stops.
    step, reporter = CountingStep(), RecordingReporter()
    config = loop_config(num_epochs=9, batch_size=1000, patience=2)
    few = Rows(make_log(50), wanted="all")
    result = fit(step, TRAIN, few, config, reporter)
    assert result.num_steps == 4
    assert result.metrics["epoch"] == 1
    assert result.metrics["validation/loss"] == 1.0


def test_divergence_is_an_error_not_a_model():
    class Diverging(CountingStep):
        def parts(self, batch) -> dict[str, torch.Tensor]:
            return {"click_loss": self.weight * float("nan")}

    with pytest.raises(FloatingPointError, match="epoch 0"):
        fit(Diverging(), TRAIN, None, loop_config(), PlainReporter())


def test_fewer_rows_than_workers_are_refused():
    rows = Rows(make_log(2), wanted="all")
    with pytest.raises(ValueError, match="2 rows"):
        fit(CountingStep(), rows, None, loop_config(), Worker(0))


def test_the_learning_rate_rises_then_falls():
    config = loop_config(schedule="cosine", num_warmup_steps=4)
    factors = [learning_rate_factor(step, config, 24) for step in range(25)]
    assert factors[:5] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1.0])
    assert factors[14] == pytest.approx(0.05 + 0.95 / 2)
    assert factors[24] == pytest.approx(0.05)


def test_nothing_that_is_not_a_number_in_padding_reaches_the_weights():
    """A teacher's garbage at padding must not matter."""
    clean = np.zeros((len(LOG), 5), np.float32)
    dirty = clean.copy()
    dirty[:, 4] = np.nan
    trained = []
    for teacher_logits in (clean, dirty):
        step = student("none")
        step.distillation, step.distillation_weight = "listwise", 1.0
        # The log's fifth column is padding everywhere, so it is cut off; lists of
        # different lengths keep it.
        lists = LOG.lists.copy()
        lists[0, 4] = lists[1, 0]
        teacher_logits[LOG.list_row == 0, 4] = 0.0
        uneven = Rows(replaced(LOG, lists), "all", teacher_logits)
        fit(step, uneven, None, loop_config(), PlainReporter())
        trained.append(weights(step))
    assert_equal_bits(*trained)


def replaced(log, lists):
    from dataclasses import replace

    return replace(log, lists=lists)


def test_the_teacher_learns_more_than_the_average():
    torch.manual_seed(0)
    step = RankerStep(Ranker(SPEC, ranker_config(), COUNTS))
    train = Rows(make_log(4000), wanted="shown")
    later = Rows(make_log(1000, seed=1), wanted="shown")
    config = loop_config(num_epochs=6)
    result = fit(step, train, later, config, PlainReporter())
    rate = float(later.log.label.mean())
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert result.metrics["validation/click_loss"] < 0.95 * entropy


def test_a_small_log_is_passed_over_until_an_epoch_has_its_steps():
    # 300 rows are two batches; seven steps need four passes.
    config = loop_config(num_epochs=1, batch_size=150, min_steps_per_epoch=7)
    step, log = CountingStep(), make_log(300)
    result = fit(step, Rows(log, wanted="all"), None, config, PlainReporter())
    assert result.num_steps == 8
    hours = Counter(log.requests["request.hour"][:, 0].tolist())
    assert step.seen == Counter({hour: 4 * n for hour, n in hours.items()})
