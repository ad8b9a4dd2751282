"""What a sweep tells people while it runs: one line for each trial that ends."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

log = logging.getLogger(__name__)


class TrialProgress(tune.Callback):
    """Logs how each trial ended and which is the best so far.

    Args:
        metric: what trials are compared by; smaller is better.
        num_trials: in all.
    """

    def __init__(self, metric: str, num_trials: int) -> None:
        self._metric, self._num_trials = metric, num_trials
        self._best: tuple[float, int] | None = None
        self._ended: set[int] = set()

    def get_state(self) -> dict[str, Any]:
        """Return what Tune keeps for a sweep that goes on later."""
        return {"best": self._best, "ended": sorted(self._ended)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take back what was kept."""
        self._best, self._ended = state["best"], set(state["ended"])

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Trial],
        trial: Trial,
        result: Mapping[Any, Any],
        **info: object,  # noqa: ARG002
    ) -> None:
        """Keep the best value that any trial had after any epoch."""
        value = float(result.get(self._metric, math.nan))
        # Nothing is smaller than the NaN of a trial that diverged.
        if math.isnan(value):
            return
        if self._best is None or value < self._best[0]:
            self._best = (value, trials.index(trial))

    def on_trial_complete(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Trial],
        trial: Trial,
        **info: object,  # noqa: ARG002
    ) -> None:
        """Tell of a trial that is done or was stopped early."""
        epochs = trial.last_result.get("training_iteration", 0)
        value = trial.last_result.get(self._metric)
        shown = "nothing reported" if value is None else f"{self._metric} {value:.5f}"
        plural = "" if epochs == 1 else "s"
        self._tell(trials.index(trial), f"{shown} after {epochs} epoch{plural}")

    def on_trial_error(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Trial],
        trial: Trial,
        **info: object,  # noqa: ARG002
    ) -> None:
        """Tell of a trial that failed for good."""
        self._tell(trials.index(trial), "failed")

    def _tell(self, number: int, how: str) -> None:
        # One that failed and is tried again ends once.
        self._ended.add(number)
        best = ""
        if self._best is not None:
            best = f"; best {self._best[0]:.5f} of trial {self._best[1]}"
        log.info(
            "trial %-3d %d of %d: %s%s",
            number,
            len(self._ended),
            self._num_trials,
            how,
            best,
        )
