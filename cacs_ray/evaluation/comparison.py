"""Runs side by side: what was set, what came out, is it sure, what did it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cacs_ray.data.files import write_bytes
from cacs_ray.evaluation.checks import at, is_number
from cacs_ray.evaluation.paired import compare_paired
from cacs_ray.evaluation.report import plain_report, report_environment

Figures = dict[str, Any]

METRICS: Final[Mapping[str, tuple[str, ...]]] = {
    "lift over random, sCTR, %": ("policies", "cacs", "lift_over_random", "sctr"),
    "lift over random, SNIPS, %": ("policies", "cacs", "lift_over_random", "snips"),
    "sCTR": ("policies", "cacs", "sctr"),
    "SNIPS": ("policies", "cacs", "snips"),
    "sCTR of the teacher": ("policies", "teacher", "sctr"),
    "true gain of cacs": ("truth", "choice_gain", "cacs", "all"),
    "AUC": ("ranker", "all", "auc"),
    "log loss": ("ranker", "all", "log_loss"),
    "calibration": ("ranker", "all", "calibration", "ratio"),
    "teacher agreement": ("agreement", "all", "top1"),
}
"""Title -> path in report.json; a plain number there has no interval."""

LOOP_METRICS: Final[Mapping[str, tuple[str, ...]]] = {
    "true CTR": ("true_ctr",),
    "RPM": ("rpm",),
    "regret": ("regret",),
    "gain": ("gain",),
    "true CTR less greedy": ("true_ctr", "less"),
    "RPM less greedy": ("rpm", "less"),
}
"""Title -> path in an arm of live.json; intervals are over seeds. Regret is the share
of the oracle's clicks that is missed, gain 0 for random and 1 for best choices."""
_ORACLE: Final = "oracle"
_LOW, _HIGH = "_low", "_high"


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """What a comparison needs of a run."""

    id: str
    name: str
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    report: Mapping[str, Any] | None = None
    """report.json of a cycle."""
    live: Mapping[str, Any] | None = None
    """live.json of closed loops."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """Seconds, rows per second and memory by name."""


def compare_runs(runs: Sequence[ComparedRun]) -> Figures:
    """Put runs side by side; the first is what the others are compared with.

    Args:
        runs: two or more.

    Returns:
        `runs` (id, name, status), `params` (name -> values in order of the runs, None
        where one has none; those that differ), `metrics` (title -> `value`, `low`,
        `high` of each run, None where there is none; those of reports first, then of
        the arms of closed loops, then the `summary/` and `test/` ones of MLflow, with
        what is called `_low` and `_high` as bounds), `paired` (one per further run, as
        `paired.compare_paired`), `cost` (name -> value of each run).
    """
    sums = [(run.report or {}).get("paired") or {} for run in runs]
    return {
        "runs": [{"id": r.id, "name": r.name, "status": r.status} for r in runs],
        "params": _differing(runs),
        "metrics": {**_reported(runs), **_looped(runs), **_logged(runs)},
        "paired": [compare_paired(sums[0], other) for other in sums[1:]],
        "cost": _side_by_side([run.cost for run in runs]),
    }


def write_comparison(compared: Mapping[str, Any], path: Path) -> None:
    """Write the page of a comparison, whole or not at all."""
    template = report_environment().get_template("compare.html")
    write_bytes(path, template.render(compared=plain_report(compared)).encode())


def _differing(runs: Sequence[ComparedRun]) -> dict[str, list[str | None]]:
    table = _side_by_side([run.params for run in runs])
    return {name: row for name, row in table.items() if len(set(row)) > 1}


def _side_by_side(parts: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: [part.get(name) for part in parts] for name in names}


def _reported(runs: Sequence[ComparedRun]) -> dict[str, list[Figures | None]]:
    """Return the figures of report.json that at least one run has."""
    table = {}
    for title, path in METRICS.items():
        row = [_figure(at(run.report or {}, *path)) for run in runs]
        if any(row):
            table[title] = row
    return table


def _figure(value: object) -> Figures | None:
    if isinstance(value, Mapping):
        kept = {name: value.get(name) for name in ("value", "low", "high")}
        return kept if is_number(kept["value"]) else None
    return {"value": value, "low": None, "high": None} if is_number(value) else None


def _looped(runs: Sequence[ComparedRun]) -> dict[str, list[Figures | None]]:
    """Return the figures of every arm that at least one run has played."""
    return _side_by_side([_of_arms(run.live or {}) for run in runs])


def _of_arms(live: Mapping[str, Any]) -> Figures:
    """Return the figures of every arm by title; that the oracle is above is no news."""
    found = {
        f"{arm}: {title}": _figure(at(figures, *path))
        for arm, figures in (live.get("arms") or {}).items()
        for title, path in LOOP_METRICS.items()
        if not (arm == _ORACLE and "less" in path)
    }
    return {title: one for title, one in found.items() if one is not None}


def _logged(runs: Sequence[ComparedRun]) -> dict[str, list[Figures | None]]:
    """Return what MLflow alone knows: a sweep's or study's outcome."""
    parts = [
        _with_bounds(
            {
                name: value
                for name, value in run.metrics.items()
                if name.startswith(("summary/", "test/")) and run.report is None
            }
        )
        for run in runs
    ]
    return _side_by_side(parts)


def _with_bounds(metrics: Mapping[str, float]) -> dict[str, Figures | None]:
    """Make one figure of a metric and both its bounds; what lacks one stays alone."""
    whole = [
        name for name in metrics if {f"{name}{_LOW}", f"{name}{_HIGH}"} <= set(metrics)
    ]
    bounds = {f"{name}{end}" for name in whole for end in (_LOW, _HIGH)}
    return {
        name: _figure(
            {
                "value": value,
                "low": metrics[f"{name}{_LOW}"] if name in whole else None,
                "high": metrics[f"{name}{_HIGH}"] if name in whole else None,
            }
        )
        for name, value in metrics.items()
        if name not in bounds
    }
