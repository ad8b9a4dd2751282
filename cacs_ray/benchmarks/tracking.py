"""What step metrics cost a training that tells MLflow of them."""

import shutil

from cacs_ray.benchmarks.market import encoded
from cacs_ray.benchmarks.outcome import (
    Outcome,
    Settings,
    alone,
    at_most,
    compared,
    interleave,
)
from cacs_ray.benchmarks.training import NUM_ROWS, Contestant
from cacs_ray.tracking.client import Tracker
from cacs_ray.training.loop import fit
from cacs_ray.training.reporter import PlainReporter


def tracking(settings: Settings) -> list[Outcome]:
    """Compare the time of a teacher's step with and without step metrics.

    With them every twentieth step is told to a SQLite store through the spool, as in
    a cycle; delivery runs beside the training and its work is in the figure.
    """
    side = Contestant(encoded(settings.out, "small", NUM_ROWS), "teacher")
    place = settings.out / "tracking"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    steps = side.loop.steps_per_pass(len(side.rows))
    shares: list[float] = []

    def step_ms(reporter: PlainReporter) -> float:
        done = fit(side.step, side.rows, None, side.loop, reporter)
        shares.append(done.step_ms["report"] / sum(done.step_ms.values()))
        return 1e3 * len(side.rows) / done.rows_per_second / steps

    uri = f"sqlite:///{place / 'mlflow.db'}"
    with (
        Tracker.open(uri, "bench", place / "spool") as tracker,
        tracker.run("teacher", tags={"stage": "teacher"}) as run,
    ):
        told = PlainReporter(lambda step, metrics: run.metrics(metrics, step=step))
        with_metrics, without = interleave(
            [lambda: step_ms(told), lambda: step_ms(PlainReporter())],
            # One percent is less than a pair differs by chance.
            2 * settings.repeats + 1,
        )
    what = "teacher's step with step metrics to MLflow / without"
    own = "share of the training thread's step that goes into its metrics"
    # Told and untold in turns: every second share is of a run that was told.
    return [
        compared(what, with_metrics, without, "ms", at_most(1.01)),
        alone(own, shares[::2], "", at_most(0.01)),
    ]
