"""A sweep: trials side by side, early stopping, each trial a run in MLflow.

The sweep's directory holds Ray Tune's state, so the same command after a kill goes
on: finished trials stay, interrupted ones continue from their checkpoints, and each
keeps its run.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import ray
from pydantic import Field
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import BasicVariantGenerator, Searcher
from ray.tune.search.optuna import OptunaSearch

from cacs_ray.config import Config
from cacs_ray.recipes.record import by_group
from cacs_ray.tracking.client import Run, Status, Tracker
from tune.progress import TrialProgress

Values = Mapping[str, float | str]
"""Dotted field name -> value, as `Config.override` takes them."""

_SWITCHES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Tune's own handler of Ctrl-C ends a sweep as if it were whole.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Its ten seconds are many trials' starts; what a kill makes it forget is made anew.
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
}
"""Variables that Tune reads when a sweep starts; those that are set already win."""

_NAME = "trials"
_DIRECTORY = "trial_"
_SHORT_NAMES = 4


class SweepSettings(Config):
    """How many trials, and how they are chosen."""

    num_trials: int = Field(gt=0)
    search: Literal["tpe", "random"] = "tpe"
    """tpe learns from finished trials (Optuna)."""
    num_concurrent: int = Field(default=0, ge=0)
    """Trials side by side, one processor each; 0 = all processors but one."""
    metric: str
    """Reported after every epoch; smaller is better."""
    max_epochs: int = Field(gt=0)
    steps_per_epoch: int = Field(gt=0)
    """Trials are compared at equal `step`, which they report too."""
    seed: int = 0


class TrialRuns(tune.Callback):
    """Makes each trial a run below the sweep's; lives in the driver only.

    Ray Tune pickles its callbacks, and neither a tracker nor a run can travel: they
    are found through the class.
    """

    _parent: ClassVar[Run | None] = None
    _tracker: ClassVar[Tracker | None] = None
    _open: ClassVar[dict[str, Run]] = {}

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    @classmethod
    @contextmanager
    def reporting_to(cls, tracker: Tracker, parent: Run) -> Iterator[None]:
        """Say where the runs of a sweep go; one still open at its end is KILLED."""
        cls._tracker, cls._parent, cls._open = tracker, parent, {}
        try:
            yield
        finally:
            # Tune has ended the run of every trial that it was done with.
            for run in cls._open.values():
                run.finish("KILLED")
            cls._tracker, cls._parent, cls._open = None, None, {}

    @classmethod
    def keep_only(cls, trial_ids: Iterable[str]) -> None:
        """Delete the runs of all other trials.

        A trial that started just before a kill is unknown to Tune afterwards: another
        one takes its place, under another id.
        """
        if cls._parent is not None:
            parent = cls._parent.id
            keys = [_run_key(parent, trial_id) for trial_id in trial_ids]
            cls._parent.keep_children("trial", keys)

    def get_state(self) -> dict[str, int]:
        """Return what Tune keeps for a sweep that goes on later."""
        return dict(self._numbers)

    def set_state(self, state: dict[str, int]) -> None:
        """Take back what was kept."""
        self._numbers = dict(state)

    def on_trial_start(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Trial],
        trial: Trial,
        **info: object,  # noqa: ARG002
    ) -> None:
        """Open the trial's run, or its old one when the sweep goes on."""
        if self._tracker is None or self._parent is None:
            return
        # Numbers follow the order in which trials were made: those that run side
        # by side start in any order, and the first one holds the defaults.
        for made in trials:
            self._numbers.setdefault(made.trial_id, len(self._numbers))
        number = self._numbers[trial.trial_id]
        run = self._tracker.start_run(
            f"trial-{number:03d} {_in_short(trial.config)}",
            self._parent,
            {"stage": "trial", "trial": number},
            key=_run_key(self._parent.id, trial.trial_id),
        )
        run.params(trial.config)
        self._open[trial.trial_id] = run

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Trial],  # noqa: ARG002
        trial: Trial,
        result: Mapping[Any, Any],
        **info: object,  # noqa: ARG002
    ) -> None:
        """Log what the training itself measured."""
        run = self._open.get(trial.trial_id)
        if run is not None:
            # The rest is what Tune says of itself.
            numbers = {
                name: value
                for name, value in result.items()
                if ("/" in name or name == "rows_per_second") and _is_number(value)
            }
            run.metrics(by_group(numbers), step=int(result.get("step", 0)))

    def on_trial_complete(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Trial],  # noqa: ARG002
        trial: Trial,
        **info: object,  # noqa: ARG002
    ) -> None:
        """End the run."""
        self._finish(trial.trial_id, "FINISHED")

    def on_trial_error(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Trial],  # noqa: ARG002
        trial: Trial,
        **info: object,  # noqa: ARG002
    ) -> None:
        """Show the trial as failed."""
        self._finish(trial.trial_id, "FAILED")

    def _finish(self, trial_id: str, status: Status) -> None:
        run = self._open.pop(trial_id, None)
        if run is not None:
            run.finish(status)


def run_sweep(
    train: Callable[[dict[str, Any]], None],
    space: Mapping[str, Any],
    defaults: Values,
    settings: SweepSettings,
    out: Path,
) -> list[tune.Result]:
    """Run all trials, or those that an earlier call did not finish.

    Args:
        train: one trial; calls `ray.tune.report` after every epoch with the metric
            and `step`.
        space: dotted field name -> Ray Tune domain.
        defaults: values of the first trial.
        settings: how many, and how they are chosen.
        out: the sweep's directory.

    Returns:
        One result a trial, failed ones included.

    Raises:
        RuntimeError: Tune stopped before all trials were made.
    """
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    # It misses the files of the loggers that are switched off above.
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)
    trainable = tune.with_resources(train, {"CPU": 1})
    state = out / _NAME
    if tune.Tuner.can_restore(str(state)):
        tuner = tune.Tuner.restore(
            str(state), trainable, resume_unfinished=True, resume_errored=True
        )
    else:
        tuner = _new_tuner(trainable, space, defaults, settings, out)
    results = _fit(tuner)
    if len(results) != settings.num_trials:
        raise RuntimeError(
            f"the sweep ended with {len(results)} of {settings.num_trials} trials; "
            "the same command goes on"
        )
    TrialRuns.keep_only(map(trial_id, results))
    return results


def _new_tuner(
    trainable: Any,  # noqa: ANN401 - Tune has no name for it
    space: Mapping[str, Any],
    defaults: Values,
    settings: SweepSettings,
    out: Path,
) -> tune.Tuner:
    return tune.Tuner(
        trainable,
        param_space=dict(space),
        tune_config=tune.TuneConfig(
            metric=settings.metric,
            mode="min",
            num_samples=settings.num_trials,
            max_concurrent_trials=settings.num_concurrent or _spare_cpus(),
            search_alg=_search(defaults, settings),
            scheduler=ASHAScheduler(
                time_attr="step",
                grace_period=settings.steps_per_epoch,
                # At this step a trial would be stopped before it has saved its model.
                max_t=settings.max_epochs * settings.steps_per_epoch + 1,
                reduction_factor=2,
            ),
            trial_dirname_creator=_trial_directory,
        ),
        run_config=tune.RunConfig(
            name=_NAME,
            storage_path=str(out),
            callbacks=[
                TrialRuns(),
                TrialProgress(settings.metric, settings.num_trials),
            ],
            failure_config=tune.FailureConfig(max_failures=1),
            verbose=0,
        ),
    )


def _fit(tuner: tune.Tuner) -> list[tune.Result]:
    with warnings.catch_warnings():
        # A trial that goes on counts its reports from 1 again.
        warnings.filterwarnings("ignore", message="The reported value is ignored")
        grid = tuner.fit()
    return [grid[number] for number in range(len(grid))]


def _search(
    defaults: Values, settings: SweepSettings
) -> Searcher | BasicVariantGenerator:
    """Return the search algorithm; its first suggestion are the defaults."""
    first = [dict(defaults)]
    if settings.search == "random":
        return BasicVariantGenerator(
            points_to_evaluate=first, random_state=settings.seed
        )
    return OptunaSearch(
        points_to_evaluate=first,
        seed=settings.seed,
        metric=settings.metric,
        mode="min",
    )


def _spare_cpus() -> int:
    """Return the cluster's processors but one, at least 1."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, int(resources.get("CPU", 1)) - 1)


def _run_key(parent: str, trial_id: str) -> str:
    return f"{parent}/{trial_id}"


def _trial_directory(trial: Trial) -> str:
    return f"{_DIRECTORY}{trial.trial_id}"


def trial_id(result: tune.Result) -> str:
    """Return which trial a result is of, also when it reported nothing."""
    return Path(result.path).name.removeprefix(_DIRECTORY)


def _in_short(config: Mapping[str, Any]) -> str:
    """Return the values that tell trials apart, for a run's name."""
    parts = []
    for name, value in list(config.items())[:_SHORT_NAMES]:
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        parts.append(f"{name.rpartition('.')[2]}={shown}")
    return " ".join(parts)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
