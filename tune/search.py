"""What every search shares: stages run once, trials trained, the best one judged.

The trials of one search differ in the model they train and in nothing else: the
encoded log, the teacher, its soft labels and, for the ranker, the student are made
once, by the stages of `jobs.cycle`. Trials are ranked by a loss on the validation
window; the best one is then judged against the configuration as it stood on the test
window, which no trial saw.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ray import tune

from cacs_ray.cluster import start_ray
from cacs_ray.command import add_changes, add_tracking_uri, job_parser
from cacs_ray.config import Config, parse_changes
from cacs_ray.data.dataset import read_dataset
from cacs_ray.data.files import read_json, write_json
from cacs_ray.features.batch import EncodedLog
from cacs_ray.features.store import open_encoded
from cacs_ray.recipes.config import RECIPES, run_config
from cacs_ray.recipes.cycle import Cycle
from cacs_ray.recipes.record import lasting_key, record_start
from cacs_ray.tracking.client import Run, Tracker, flatten
from cacs_ray.tracking.views import LINK, spaced, trials_view
from cacs_ray.training.reporter import PlainReporter, TuneReporter
from cacs_ray.training.stage import RESULT, Stage, train_here
from tune.begun import asked_for, keep_settings, refuse_another
from tune.judge import Judgement, compare
from tune.sweep import SweepSettings, TrialRuns, Values, run_sweep, trial_id

METRIC_NAME = "click_loss"
METRIC = f"validation/{METRIC_NAME}"
"""Of clicks later than the training window. Unlike the loss that is minimised, it
means the same for every temperature and weight."""

Space = Mapping[str, Any]
"""Field of the searched configuration -> Ray Tune domain; names as for `--set`."""

_VALUES = "values.json"


class Search(Protocol):
    """One searched model; can be pickled, so that trials can be sent to workers."""

    @property
    def base(self) -> Stage:
        """The stage as configured: what all trials read, how long they train."""
        ...

    @property
    def config(self) -> Config:
        """The configuration that is searched around; it is the first trial."""
        ...

    @property
    def space(self) -> Space:
        """Where to search."""
        ...

    def stage(self, values: Values) -> Stage:
        """Return the training stage with some values."""
        ...

    def judge(self, directory: Path, log: EncodedLog) -> Judgement:
        """Judge a trained model on a window."""
        ...


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


def search_parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """Return the options of a search, `name` being its module below `tune`."""
    parser = job_parser(doc, f"tune.{name}")
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
    add_changes(parser, f"{name}.loop.num_epochs=3")
    add_tracking_uri(parser)
    return parser


def run_search(
    args: argparse.Namespace, name: str, prepare: Callable[[Cycle], Search]
) -> dict[str, object]:
    """Run or resume the sweep that the options describe.

    Args:
        args: of `search_parser`.
        name: what is searched, as in `tune.<name>`.
        prepare: runs the stages of a validated cycle that all trials share.

    Raises:
        InputError: the sweep in `--out` was begun with another command.
    """
    config = run_config(args.recipe).override(parse_changes(args.set))
    dataset, out = read_dataset(args.logs), Path(args.out).absolute()
    asked = asked_for(args, name, dataset)
    # Before anything of the sweep is touched, its run in MLflow too.
    refuse_another(out, asked, config)
    with start_ray():
        cycle = Cycle(dataset, Path(args.work).absolute(), config)
        cycle.validate()
        with (
            Tracker.open(
                args.tracking_uri, dataset.root.name, out / "tracking"
            ) as tracker,
            tracker.run(
                f"{out.name}: {name} sweep in {out.parent.name}",
                tags={"stage": "sweep", "model_role": name, "recipe": args.recipe},
                key=lasting_key(out / "sweep.key"),
            ) as run,
        ):
            # What is not searched tells sweeps apart, and compares them with cycles.
            record_start(run, config, out)
            cycle.report_to(run)
            search = prepare(cycle)
            settings = sweep_settings(args, search)
            keep_settings(settings, out, asked)
            show_trials(run, search, "Under way.")
            run.params({"sweep": settings.model_dump(), "space": _texts(search.space)})
            with TrialRuns.reporting_to(tracker, run):
                results = run_sweep(
                    partial(train_trial, search=search, out=out / "models"),
                    search.space,
                    default_values(search.config, search.space),
                    settings,
                    out,
                )
            summary = conclude(results, search, out, run)
    return {"out": str(out), **summary}


def sweep_settings(args: argparse.Namespace, search: Search) -> SweepSettings:
    """Return how many trials, and for how long each may train."""
    num_rows = len(open_encoded(search.base.inputs.encoded_dir, "train"))
    loop = search.base.loop
    return SweepSettings(
        num_trials=args.trials,
        search=args.search,
        num_concurrent=args.concurrent,
        metric=METRIC,
        max_epochs=loop.num_epochs,
        # What a trial really does: a small log is passed over more than once, and
        # a shorter epoch would stop every trial before it has saved its model.
        steps_per_epoch=loop.steps_per_epoch(num_rows),
    )


def default_values(config: Config, space: Space) -> Values:
    """Return what a configuration says about the searched fields."""
    values: dict[str, float | str] = {}
    for name in space:
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        values[name] = value
    return values


def train_trial(values: dict[str, Any], *, search: Search, out: Path) -> None:
    """Train one model with some values; a restarted trial goes on."""
    directory = out / tune.get_context().get_trial_id()
    write_json(directory / _VALUES, values)
    train_here(
        search.stage(values), TuneReporter(), directory, directory / "checkpoints"
    )


def conclude(
    results: Sequence[tune.Result], search: Search, out: Path, run: Run
) -> dict[str, object]:
    """Write sweep.json: all trials, and best against default on the test window."""
    finished = _finished(results, out / "models")
    default = _default_trial(finished, search, out / "models")
    ranked = sorted({t.trial_id: t for t in [*finished, default]}.values(), key=_loss)
    best = ranked[0]
    log = open_encoded(search.base.inputs.encoded_dir, "test")
    best_side, default_side = (
        search.judge(out / "models" / t.trial_id, log) for t in (best, default)
    )
    test: Mapping[str, Any] = compare(best_side, default_side, log)
    summary: dict[str, Any] = {
        "trials": len(results),
        "finished": len(finished),
        "failed": sum(result.error is not None for result in results),
        "best": dict(best.values),
        METRIC: {"best": best.loss, "default": default.loss},
        "test": test,
    }
    table = [{"loss": t.loss, **t.values} for t in ranked]
    write_json(out / "sweep.json", {**summary, "leaderboard": table})
    run.metrics(summary_metrics(summary))
    run.tags({f"best.{name}": value for name, value in best.values.items()})
    show_trials(run, search, outcome_note(summary))
    run.artifact(out / "sweep.json")
    return summary


def summary_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return what a sweep's own run tells of its outcome.

    Bounds stand beside their figure as `_low` and `_high`, by which `jobs.compare`
    knows them.
    """
    loss, gain = summary[METRIC], summary["test"]["gain_nats"]
    return {
        "summary/best_click_loss": loss["best"],
        "summary/default_click_loss": loss["default"],
        "summary/test_gain_nats": gain["value"],
        "summary/test_gain_nats_low": gain["low"],
        "summary/test_gain_nats_high": gain["high"],
    }


def show_trials(run: Run, search: Search, note: str) -> None:
    """Keep a view of the trials with the sweep's run; its note leads there."""
    view = trials_view([METRIC, f"train_epoch/{METRIC_NAME}"], list(search.space))
    head, _, rest = note.partition("\n\n")
    text = f"{head} [Trials: table, parallel coordinates, curves]({LINK})\n\n{rest}"
    run.view("trials", view, text)


def outcome_note(summary: Mapping[str, Any]) -> str:
    """Say in Markdown what came out of a sweep, sure or not."""
    gain, loss = summary["test"]["gain_nats"], summary[METRIC]
    if loss["best"] == loss["default"]:
        head = "No trial was better on the validation window than the recipe."
    else:
        told = "is" if summary["test"]["is_better"] else "is not surely"
        head = (
            f"The best trial {told} better than the recipe on the test window, which "
            f"no trial saw: {1e3 * gain['value']:.2f} [{1e3 * gain['low']:.2f}, "
            f"{1e3 * gain['high']:.2f}] millinats an impression."
        )
    lines = [
        head,
        "",
        f"{summary['trials']} trials: {summary['finished']} trained to their end, "
        f"{summary['failed']} failed, the others stopped early.",
        "",
        "| field | best |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in flatten(summary["best"]).items()),
        "",
        "All values: `sweep.json` among the artifacts.",
    ]
    return spaced("\n".join(lines))


def _default_trial(finished: Sequence[Trial], search: Search, models: Path) -> Trial:
    """Return the default trained to its end, also if the scheduler stopped it."""
    values = default_values(search.config, search.space)
    for trial in finished:
        if trial.values == values:
            return trial
    result = train_here(search.stage(values), PlainReporter(), models / "default")
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


def _texts(space: Space) -> dict[str, str]:
    """Return the space as people read it."""
    return {name: domain.domain_str for name, domain in space.items()}
