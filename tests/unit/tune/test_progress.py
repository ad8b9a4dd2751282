"""What a sweep's lines promise: which trial, how far, which is the best."""

import logging
import math
from types import SimpleNamespace

from tune.progress import TrialProgress

METRIC = "validation/click_loss"


def told(caplog, progress, *ends):
    """Let trials report and end; return what was said."""
    trials = [SimpleNamespace(last_result={}) for _ in ends]
    with caplog.at_level(logging.INFO, "tune.progress"):
        for trial, losses in zip(trials, ends, strict=True):
            for epoch, loss in enumerate(losses, start=1):
                trial.last_result = {METRIC: loss, "training_iteration": epoch}
                progress.on_trial_result(0, trials, trial, trial.last_result)
            if losses:
                progress.on_trial_complete(0, trials, trial)
            else:
                progress.on_trial_error(0, trials, trial)
    return [" ".join(record.getMessage().split()) for record in caplog.records]


def test_each_end_is_one_line_with_the_best_so_far(caplog):
    lines = told(caplog, TrialProgress(METRIC, 3), [0.3, 0.2], [0.25], [])
    assert lines == [
        "trial 0 1 of 3: validation/click_loss 0.20000 after 2 epochs;"
        " best 0.20000 of trial 0",
        "trial 1 2 of 3: validation/click_loss 0.25000 after 1 epoch;"
        " best 0.20000 of trial 0",
        "trial 2 3 of 3: failed; best 0.20000 of trial 0",
    ]


def test_a_trial_that_diverged_is_never_the_best(caplog):
    lines = told(caplog, TrialProgress(METRIC, 2), [math.nan], [0.25])
    assert lines[0].endswith("nan after 1 epoch")
    assert lines[1].endswith("best 0.25000 of trial 1")


def test_a_sweep_that_goes_on_counts_each_trial_once(caplog):
    first = TrialProgress(METRIC, 3)
    told(caplog, first, [0.2], [])
    caplog.clear()
    later = TrialProgress(METRIC, 3)
    later.set_state(first.get_state())

    lines = told(caplog, later, [0.2], [0.25], [0.3])

    assert [line.split(":")[0] for line in lines] == [
        "trial 0 2 of 3",
        "trial 1 2 of 3",
        "trial 2 3 of 3",
    ]
    assert lines[-1].endswith("best 0.20000 of trial 0")
