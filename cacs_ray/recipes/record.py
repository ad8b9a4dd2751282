"""What a cycle leaves in MLflow: one parent run, and its bundle in the registry."""

import hashlib
import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cacs_ray.data.files import read_json, write_bytes, write_json
from cacs_ray.errors import InputError
from cacs_ray.evaluation.model_card import (
    CARD,
    Origin,
    render_card,
    version_description,
)
from cacs_ray.manifest import read_manifest
from cacs_ray.recipes.config import CycleConfig
from cacs_ray.recipes.report import headline_metrics
from cacs_ray.recipes.stages import WALL
from cacs_ray.registry import Registry, model_name
from cacs_ray.tracking.client import Run, Tracker
from cacs_ray.tracking.source import code_tags, environment_lock
from cacs_ray.tracking.store import ABOUT, NOTE_TAG
from cacs_ray.tracking.views import LINK, spaced, table_view
from cacs_ray.training.stage import TrainResult

if TYPE_CHECKING:
    from cacs_ray.recipes.cycle import Cycle

log = logging.getLogger(__name__)

_COLUMNS = tuple(
    f"test/{name}"
    for name in ("lift_snips_percent", "sctr_cacs", "sctr_teacher", "auc", "gain_cacs")
)
"""Of the table of runs; the last one is known on a simulated market only."""

_ABOUT_RUNS = f"{ABOUT} [Table with figures]({LINK})"

_NOTED = ("random", "popular", "cacs", "teacher")


def run_key(work: Path, dataset: Path, config: CycleConfig) -> str:
    """Return what names a run for as long as its directory and settings last.

    Stages that are run one by one thus become children of one parent; another
    configuration, whose parameters would contradict, begins a new parent.
    """
    text = f"{dataset.absolute()} {config.model_dump_json()}"
    settings = hashlib.sha256(text.encode()).hexdigest()[:32]
    file = work / "run.json"
    if file.is_file() and (kept := read_json(file))["settings"] == settings:
        return str(kept["key"])
    key = uuid.uuid4().hex
    write_json(file, {"key": key, "settings": settings})
    return key


def lasting_key(file: Path) -> str:
    """Return what names a run for as long as a file, which it writes, is there."""
    if not file.is_file():
        write_bytes(file, uuid.uuid4().hex.encode())
    return file.read_text()


def record_start(run: Run, config: CycleConfig, work: Path) -> None:
    """Log every number of a run before it begins, and what it runs on.

    Args:
        run: the parent run.
        config: every number.
        work: where the files wait until MLflow has them.
    """
    run.params(config.model_dump())
    record_made_from(run, work, config.model_dump(mode="json"))
    run.view("runs", table_view(_COLUMNS), _ABOUT_RUNS, of_experiment=True)


def record_made_from(run: Run, work: Path, config: Mapping[str, Any]) -> None:
    """Keep what a run was made from, beside the data and the code.

    Args:
        run: gets `config.json` and, with the versions of all that is installed,
            `environment.txt`.
        work: where the files wait until MLflow has them.
        config: every number with its whole value; parameters are rounded. JSON values.
    """
    write_json(work / "config.json", config)
    write_bytes(work / "environment.txt", environment_lock().encode())
    for name in ("config.json", "environment.txt"):
        run.artifact(work / name)


def record_outcome(cycle: "Cycle", tracker: Tracker, recipe: str) -> dict[str, Any]:
    """Log a finished cycle to its parent run and register its bundle.

    Args:
        cycle: after its last stage.
        tracker: where its run is.
        recipe: what its configuration is called.

    Returns:
        Where bundle and report are, and the headline figures.
    """
    run, summaries = cycle.run, cycle.stages.summaries
    figures = dict(summaries["evaluate"])
    figures.pop("seconds")
    bundle_id = str(summaries["bundle"]["bundle_id"])
    note = outcome_note(read_json(cycle.out / "report.json"))
    card = _card(cycle, recipe, note)
    write_bytes(cycle.out / CARD, card.encode())
    run.tags({"bundle_id": bundle_id, NOTE_TAG: spaced(note)})
    run.metrics(headline_metrics(figures))
    for file in ("report.html", "report.json", CARD):
        run.artifact(cycle.out / file)
    run.artifact(cycle.work / "evaluate" / "figures", "figures")
    return {
        "bundle": str(cycle.out / "bundle"),
        "bundle_id": bundle_id,
        "report": str(cycle.out / "report.html"),
        **figures,
        **_register(cycle.out / "bundle", tracker, run, version_description(card)),
    }


def outcome_note(report: Mapping[str, Any]) -> str:
    """Say in Markdown what came out, for the pages of run and model version."""
    lift = report["policies"]["cacs"]["lift_over_random"]["snips"]
    truth = report.get("truth", {}).get("next_day", {})
    lines = [
        # Lists show the first line as it is written, Markdown and all.
        f"Lift of cacs over random {_figure(lift, 1, 1)} % (SNIPS, with "
        f"{100 * report['level']:.0f} % interval), on {report['impressions']:,.0f} "
        f"test impressions of {report['dataset']}.",
        "",
        "| policy | sCTR % | SNIPS % |" + (" true CTR % |" if truth else ""),
        "|---|---|---|" + ("---|" if truth else ""),
    ]
    for policy in _NOTED:
        one = report["policies"].get(policy)
        if one is None:
            continue
        cells = [policy, _figure(one["sctr"], 100, 2), _figure(one["snips"], 100, 2)]
        if truth:
            is_played = policy in truth
            cells.append(
                _figure(truth[policy]["true_ctr"], 100, 2) if is_played else "-"
            )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "All figures: `report.html` among the artifacts; limits: `model_card.md`.",
    ]
    return "\n".join(lines)


def _card(cycle: "Cycle", recipe: str, note: str) -> str:
    """Return the model card of a finished cycle."""
    origin = Origin(
        manifest=read_manifest(cycle.out / "bundle"),
        config=cycle.config.model_dump(mode="json"),
        recipe=recipe,
        code=code_tags(),
    )
    return render_card(read_json(cycle.out / "report.json"), origin, note)


def by_group(metrics: Mapping[str, float]) -> dict[str, float]:
    """Name metrics by section of a chart page; see `_group` for what is renamed."""
    is_epoch = "rows_per_second" in metrics
    return {_group(name, is_epoch=is_epoch): value for name, value in metrics.items()}


def _group(name: str, *, is_epoch: bool) -> str:
    """Return a metric's name in MLflow.

    The mean of an epoch stands apart from single batches, whose curve it would
    break; what has no group yet is a time. Pages sort groups by name: where the time
    went comes last.
    """
    if "/" not in name:
        return f"{WALL}/{name}"
    if name.startswith("step_ms/"):
        return f"{WALL}/{name.replace('/', '_')}"
    return name.replace("train/", "train_epoch/") if is_epoch else name


def kept_figures(result: TrainResult) -> dict[str, float]:
    """Return a training stage's figures; its kept epoch is counted from 1."""
    metrics = dict(result.metrics)
    epoch = metrics.pop("epoch", None)
    kept = {} if epoch is None else {"kept_epoch": int(epoch) + 1}
    return {**kept, **metrics, "rows_per_second": result.rows_per_second}


def _figure(one: Mapping[str, float | None], scale: float, digits: int) -> str:
    value, low, high = (one[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    text = f"{scale * value:.{digits}f}"
    if low is None or high is None:
        return text
    return f"{text} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def _register(bundle: Path, tracker: Tracker, run: Run, note: str) -> dict[str, str]:
    """Register a bundle as the challenger; a registry that is away is only said."""
    try:
        registry = Registry(tracker.uri, model_name(read_manifest(bundle)))
        run_id = tracker.mlflow_run_id(run)
        release = registry.register(
            bundle,
            # The run has its report already; a run made for the files alone has not.
            report=bundle.parent / "report.json" if run_id is None else None,
            run_id=run_id,
        )
        if "gate" not in release.tags:
            # What the gate said of it stands there, when a run is told again.
            registry.describe(release.version, note)
    except InputError as error:
        log.warning(
            "not registered: %s; later: python -m jobs.promote --bundle %s",
            error,
            bundle,
        )
        return {}
    return {"model_version": release.version}
