"""Search dropout, temperature and weights of the selector; one MLflow run a trial.

python -m tune.student --logs market --work run --out sweep --trials 24
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune

from cacs_ray.cluster import start_ray
from cacs_ray.command import add_changes, add_tracking_uri, job_parser, run_job
from cacs_ray.config import parse_changes
from cacs_ray.data.dataset import read_dataset
from cacs_ray.data.files import read_json, write_json
from cacs_ray.errors import InputError
from cacs_ray.features.store import open_encoded
from cacs_ray.models.saved import load_selector
from cacs_ray.recipes.config import RECIPES, CycleConfig, run_config
from cacs_ray.recipes.cycle import Cycle
from cacs_ray.recipes.record import lasting_key
from cacs_ray.tracking.client import Run, Tracker
from cacs_ray.training.reporter import PlainReporter, TuneReporter
from cacs_ray.training.stage import RESULT, train_here
from cacs_ray.training.student import StudentConfig, StudentStage
from tune.judge import compare, judge
from tune.sweep import SweepSettings, TrialRuns, Values, run_sweep, trial_id

METRIC = "validation/click_loss"
"""Of clicks later than the training window. Unlike the loss that is minimised, it
means the same for every temperature and weight."""

SPACE: Mapping[str, Any] = {
    "model.gate.kind": tune.choice(["none", "fixed", "frequency", "learnt"]),
    "model.gate.rate": tune.uniform(0.05, 0.7),
    "model.gate.half_impressions": tune.loguniform(3.0, 300.0),
    "temperature": tune.loguniform(0.3, 5.0),
    "distillation_weight": tune.loguniform(0.1, 10.0),
}
"""Field of `StudentConfig` -> where to search; the names are those of `--set`."""

_VALUES = "values.json"


@dataclass(frozen=True, slots=True)
class Trial:
    """A finished trial."""

    trial_id: str
    values: Values
    metrics: Mapping[str, float]

    @property
    def loss(self) -> float:
        """What the sweep minimises."""
        return float(self.metrics[METRIC])


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, sweep, print the best values as one line of JSON."""
    parser = job_parser(__doc__, "tune.student")
    parser.add_argument("--logs", required=True, help="dataset directory")
    parser.add_argument(
        "--work",
        required=True,
        help="output directory of jobs.cycle; stages missing there are run first",
    )
    parser.add_argument(
        "--out", required=True, help="sweep directory; the same one resumes a sweep"
    )
    parser.add_argument("--trials", type=int, default=24, help="trials in all")
    parser.add_argument(
        "--search",
        choices=("tpe", "random"),
        default="tpe",
        help="how values are proposed: learning from earlier trials, or not",
    )
    parser.add_argument(
        "--concurrent",
        type=int,
        default=0,
        help="trials at a time; 0 for all processors but one",
    )
    parser.add_argument(
        "--recipe",
        choices=list(RECIPES),
        default="small",
        help="as for jobs.cycle; what the sweep does not search stays as it says",
    )
    add_changes(parser, "student.loop.num_epochs=3")
    add_tracking_uri(parser)
    return run_job(parser, sweep, argv)


def sweep(args: argparse.Namespace) -> dict[str, object]:
    """Run or resume the sweep that the options describe."""
    config = run_config(args.recipe).override(parse_changes(args.set))
    dataset, out = read_dataset(args.logs), Path(args.out).absolute()
    name = f"sweep student {out.name}"
    with start_ray():
        cycle = Cycle(dataset, Path(args.work).absolute(), config)
        cycle.validate()
        with (
            Tracker.open(
                args.tracking_uri, dataset.root.name, out / "tracking"
            ) as tracker,
            tracker.run(
                name, tags={"stage": "sweep"}, key=lasting_key(out / "sweep.key")
            ) as run,
        ):
            cycle.report_to(run)
            stage = prepare(cycle)
            settings = sweep_settings(args, stage)
            keep_settings(settings, out)
            run.params({"sweep": settings.model_dump(), "space": _texts(SPACE)})
            TrialRuns.report_to(tracker, run)
            results = run_sweep(
                partial(train_trial, stage=stage, out=out / "models"),
                SPACE,
                default_values(stage.config),
                settings,
                out,
            )
            summary = conclude(results, stage, out, run)
    return {"out": str(out), **summary}


def prepare(cycle: Cycle) -> StudentStage:
    """Make sure that soft labels of a validated log exist; all trials share them."""
    cycle.encode()
    cycle.train_teacher()
    cycle.write_soft_labels()
    return StudentStage(cycle.inputs, one_threaded(cycle.config), cycle.soft_labels)


def sweep_settings(args: argparse.Namespace, stage: StudentStage) -> SweepSettings:
    """Return how many trials, and for how long each may train."""
    rows = len(open_encoded(stage.inputs.encoded_dir, "train"))
    return SweepSettings(
        num_trials=args.trials,
        search=args.search,
        num_concurrent=args.concurrent,
        metric=METRIC,
        max_epochs=stage.loop.num_epochs,
        steps_per_epoch=math.ceil(rows / stage.loop.batch_size),
    )


def keep_settings(settings: SweepSettings, out: Path) -> None:
    """Keep the settings of a new sweep; refuse to resume it with others."""
    file = out / "settings.json"
    now = settings.model_dump()
    if file.is_file() and (kept := read_json(file)) != now:
        changed = sorted(name for name in now if kept.get(name) != now[name])
        raise InputError(
            f"the sweep here was started with other settings: {', '.join(changed)}; "
            "repeat them, or choose another --out",
            source=str(file),
            rule="same_sweep",
        )
    write_json(file, now)


def one_threaded(config: CycleConfig) -> StudentConfig:
    """Return the student's configuration for a trial, which has one processor."""
    return config.student.override({"loop.num_threads": 1})


def default_values(config: StudentConfig) -> Values:
    """Return what the configuration says about the searched fields."""
    values: dict[str, float | str] = {}
    for name in SPACE:
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        values[name] = value
    return values


def train_trial(values: dict[str, Any], *, stage: StudentStage, out: Path) -> None:
    """Train one selector with some values; a restarted trial goes on."""
    directory = out / tune.get_context().get_trial_id()
    trial = replace(stage, config=stage.config.override(values))
    write_json(directory / _VALUES, values)
    train_here(trial, TuneReporter(), directory, directory / "checkpoints")


def conclude(
    results: Sequence[tune.Result], stage: StudentStage, out: Path, run: Run
) -> dict[str, object]:
    """Write sweep.json: all trials, and best against default on the test window."""
    finished = _finished(results, out / "models")
    default = _default_trial(finished, stage, out / "models")
    ranked = sorted({t.trial_id: t for t in [*finished, default]}.values(), key=_loss)
    best = ranked[0]
    log = open_encoded(stage.inputs.encoded_dir, "test")
    best_side, default_side = (
        judge(load_selector(out / "models" / t.trial_id, stage.inputs.spec), log)
        for t in (best, default)
    )
    summary: dict[str, object] = {
        "trials": len(results),
        "finished": len(finished),
        "failed": sum(result.error is not None for result in results),
        "best": dict(best.values),
        METRIC: {"best": best.loss, "default": default.loss},
        "test": compare(best_side, default_side, log),
    }
    table = [{"loss": t.loss, **t.values} for t in ranked]
    write_json(out / "sweep.json", {**summary, "leaderboard": table})
    run.metrics({"summary/best_click_loss": best.loss})
    run.tags({f"best.{name}": value for name, value in best.values.items()})
    run.artifact(out / "sweep.json")
    return summary


def _default_trial(
    finished: Sequence[Trial], stage: StudentStage, models: Path
) -> Trial:
    """Return the default trained to its end, also if the scheduler stopped it."""
    values = default_values(stage.config)
    for trial in finished:
        if trial.values == values:
            return trial
    result = train_here(stage, PlainReporter(), models / "default")
    return Trial("default", values, result.metrics)


def _loss(trial: Trial) -> float:
    return trial.loss


def _finished(results: Sequence[tune.Result], models: Path) -> list[Trial]:
    """Return the trials that were trained to their end, by their own records."""
    trials = []
    for result in results:
        name = trial_id(result)
        file = models / name / RESULT
        if file.is_file():
            metrics = read_json(file)["metrics"]
            values = read_json(models / name / _VALUES)
            trials.append(Trial(name, values, metrics))
    return trials


def _texts(space: Mapping[str, Any]) -> dict[str, str]:
    """Return the space as people read it."""
    return {name: domain.domain_str for name, domain in space.items()}


if __name__ == "__main__":
    sys.exit(main())
