"""Runs of MLflow side by side, in the terminal and as a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from cacs_ray.data.files import write_json
from cacs_ray.errors import InputError
from cacs_ray.evaluation.comparison import ComparedRun, compare_runs, write_comparison
from cacs_ray.evaluation.report import plain_report
from cacs_ray.recipes.shown import console, figure
from cacs_ray.recipes.stages import PEAK_MEMORY, WALL
from cacs_ray.tracking.runs import KeptRun, RunReader
from cacs_ray.tracking.store import default_uri

_REPORT, _LIVE = "report.json", "live.json"
_SMALL, _FINE = 0.01, "{:.6f}"


def compare(
    names: Sequence[str],
    tracking_uri: str | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Compare runs: what was set, what came out, whether that is sure, what it cost.

    Args:
        names: ids or names of two or more runs; the first one is the yardstick.
        tracking_uri: as for `Tracker.open`.
        out: directory for compare.json and compare.html; None writes nothing.

    Returns:
        The paired differences, and where the page is, for the job's last line.

    Raises:
        InputError: fewer than two runs, or a run that is not there.
    """
    if len(names) < 2:
        raise InputError("needs two runs or more", source="RUN", rule="two_runs")
    reader = RunReader(tracking_uri or default_uri())
    compared = plain_report(
        compare_runs([compared_run(reader, reader.find(name)) for name in names])
    )
    show_comparison(compared)
    line: dict[str, Any] = {"out": out, "paired": compared["paired"]}
    if out is not None:
        root = Path(out).absolute()
        write_json(root / "compare.json", compared)
        write_comparison(compared, root / "compare.html")
        line |= {"out": str(root), "report": str(root / "compare.html")}
    return line


def compared_run(reader: RunReader, run: KeptRun) -> ComparedRun:
    """Return a run with its report, or the arms of its closed loops, and its cost."""
    return ComparedRun(
        id=run.id,
        name=run.name,
        status=run.status,
        params=run.params,
        metrics=run.metrics,
        report=reader.artifact(run, _REPORT),
        live=reader.artifact(run, _LIVE),
        cost=run_cost(run),
    )


def run_cost(run: KeptRun) -> dict[str, float]:
    """Return seconds, rows per second and peak memory of a run and its stages.

    The trials of a sweep count together. A stage that was reused cost nothing and is
    not there.
    """
    cost: dict[str, float] = {}
    if run.seconds is not None:
        cost["seconds in all"] = run.seconds
    trials = [child for child in run.children if child.stage == "trial"]
    if trials:
        cost["trials"] = len(trials)
        cost["seconds of trials"] = sum(child.seconds or 0.0 for child in trials)
    for child in (run, *run.children):
        if child.stage == "trial":
            continue
        for name, value in child.metrics.items():
            title = _cost_title(name, child)
            if title is not None:
                cost[title] = value
    return cost


def _cost_title(metric: str, run: KeptRun) -> str | None:
    if metric == f"{WALL}/stage_seconds":
        return f"seconds of {run.stage}"
    if metric == f"{WALL}/rows_per_second":
        return f"rows/s of {run.stage}"
    if metric == PEAK_MEMORY:
        return f"peak memory of {run.stage}, MB"
    return None


def show_comparison(compared: Mapping[str, Any]) -> None:
    """Print the tables of a comparison."""
    shown = console()
    names = [run["name"] for run in compared["runs"]]
    tables = {
        "Parameters that differ": compared["params"],
        "Figures (95 % intervals of each run alone)": compared["metrics"],
        "Cost": compared["cost"],
    }
    for title, rows in tables.items():
        table = _table(title, "", *names)
        for name, values in rows.items():
            table.add_row(escape(name), *(_cell(value) for value in values))
        shown.print(table)
    table = _table(
        "Differences, impression by impression", f"against {names[0]}", "", "sure?"
    )
    for name, pair in zip(names[1:], compared["paired"], strict=True):
        if pair["status"] != "ok":
            table.add_row(escape(name), escape(pair["status"]), "-")
        for title, one in pair["figures"].items():
            better = "better" if one["value"] > 0 else "worse"
            table.add_row(
                escape(f"{name}: {title}"),
                _cell(one),
                better if one["is_sure"] else "no",
            )
    shown.print(table)


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(escape(first), overflow="fold")
    for name in columns:
        table.add_column(escape(name), justify="right", overflow="fold")
    return table


def _cell(value: object) -> str:
    """Say a parameter, a number, or a figure with its interval."""
    if isinstance(value, Mapping):
        parts = [value[name] for name in ("value", "low", "high")]
        if parts[0] is None:
            return "-"
        # A gain of less than a millinat would be rounded away beside its bounds.
        say = _FINE.format if abs(parts[0]) < _SMALL else figure
        if None in parts:
            return say(parts[0])
        return f"{say(parts[0])} \\[{say(parts[1])}, {say(parts[2])}]"
    if isinstance(value, int | float):
        return figure(value)
    return "-" if value is None else escape(str(value))
