"""report.json -> report.html: one page that needs nothing but itself.

The report is a plain dictionary. Beside what `offline.evaluate` returns it may hold,
and the page shows what it finds: `dataset`, `bundle_id`, `windows`, `data` (the
summary of the log), `stages` (seconds of each), `curves` (metrics by step), `truth`
(`next_day` and `choice_gain` on a simulated market), `off_policy` (by name, answers
of `off_policy.compare_with_on_policy`) and `gate` (the verdict).
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
from markupsafe import Markup

from cacs_ray.data.files import write_bytes
from cacs_ray.evaluation import figures
from cacs_ray.evaluation.pages import page_environment
from cacs_ray.evaluation.scored_log import BUCKETS

Report = Mapping[str, Any]

_NONE: Final = "\N{EN DASH}"
_THIN: Final = "\N{NARROW NO-BREAK SPACE}"
_STAGES: Final = ("teacher", "student", "ranker")
_TEMPLATES: Final = Path(__file__).parent / "templates"


def plain_report(value: Any) -> Any:  # noqa: ANN401 - any tree of report values
    """Return a tree of JSON values: NaN and infinity become null.

    NumPy numbers and arrays, tuples and paths become what JSON knows.

    >>> plain_report({"a": np.float32(0.5), "b": (1, float("nan"))})
    {'a': 0.5, 'b': [1, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain_report(one) for key, one in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain_report(value.tolist())
    if isinstance(value, list | tuple):
        return [plain_report(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def render_report(report: Report) -> str:
    """Return the page of a report; sections without figures are left out."""
    plain = plain_report(report)
    environment = report_environment()
    page: str = environment.get_template("report.html").render(
        report=plain,
        buckets=BUCKETS,
        order=tuple(figures.COLOURS),
        plots=_plots(plain),
        step_times=_step_times(plain),
    )
    return page


def report_environment() -> jinja2.Environment:
    """Return what renders the pages of this directory, with filters for figures."""
    environment = page_environment(_TEMPLATES)
    environment.filters.update(
        number=_number,
        percent=_percent,
        count=_count,
        moment=_moment,
        money=_money,
        short=_short,
    )
    return environment


def write_report(report: Report, path: str | Path) -> None:
    """Write the page of a report to a file, whole or not at all."""
    write_bytes(path, render_report(report).encode())


def write_figures(report: Report, directory: Path) -> None:
    """Write the plots of a report as files of their own, for who keeps them apart."""
    directory.mkdir(parents=True, exist_ok=True)
    plots = _plots(plain_report(report))
    curves = plots.pop("curves")
    named = plots | {f"training_{stage}": plot for stage, plot in curves.items()}
    for name, plot in named.items():
        write_bytes(directory / f"{name}.svg", str(plot).encode())


def _plots(report: Report) -> dict[str, Any]:
    """Draw every plot that the report has figures for."""
    plots: dict[str, Any] = {}
    policies = report.get("policies", {})
    if policies:
        names = [name for name in figures.COLOURS if name in policies]
        others = {name: policies[name] for name in names if name != "random"}
        plots["lift"] = Markup(
            figures.forest_plot(
                [
                    (name, one["lift_over_random"]["snips"])
                    for name, one in others.items()
                ],
                "lift of CTR over random choice, % (SNIPS)",
            )
        )
        by_bucket = {
            name: {
                bucket: part["lift_over_random"]["snips"]
                for bucket, part in one["by_bucket"].items()
            }
            for name, one in others.items()
            if name != "logged"
        }
        plots["buckets"] = Markup(
            figures.bucket_plot(by_bucket, BUCKETS, "lift over random, %")
        )
    if "ranker" in report:
        plots["calibration"] = Markup(figures.calibration_plot(report["ranker"]))
    plots["curves"] = {
        stage: Markup(figures.curves_plot(stage, records))
        for stage in _STAGES
        if (records := report.get("curves", {}).get(stage))
    }
    gain = report.get("truth", {}).get("choice_gain", {})
    if gain:
        plots["gain"] = Markup(
            figures.forest_plot(
                [(name, gain[name]["all"]) for name in figures.COLOURS if name in gain],
                "normalised gain: 0 = random choice, 1 = oracle",
            )
        )
    return plots


def _step_times(report: Report) -> dict[str, dict[str, float]]:
    """Return the milliseconds of a step by stage and by what they went into."""
    start = "step_ms/"
    times = {}
    for stage, records in report.get("curves", {}).items():
        last: Report = next(
            (r for r in reversed(records) if "rows_per_second" in r), {}
        )
        parts = {
            name.removeprefix(start): value
            for name, value in last.items()
            if name.startswith(start) and value is not None
        }
        if parts:
            times[stage] = {**parts, "rows_per_second": last["rows_per_second"]}
    return times


def _number(value: float | None, digits: int = 3) -> str:
    # Adding zero takes the sign from a rounded minus zero.
    return _NONE if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def _short(value: object) -> str:
    """Format any value of a stage: whole numbers whole, others with four digits."""
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000):
        return _count(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _percent(value: float | None, digits: int = 2) -> str:
    """Format a share or rate in [0, 1]."""
    return _NONE if value is None else f"{100 * value:.{digits}f}{_THIN}%"


def _count(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.0f}".replace(",", _THIN)


def _money(value: float | None) -> str:
    """Format micros in units of the currency."""
    return _NONE if value is None else f"{value / 1e6:,.3f}".replace(",", _THIN)


def _moment(micros: int | None) -> str:
    """Format microseconds UTC."""
    if micros is None:
        return _NONE
    return datetime.fromtimestamp(micros / 1e6, UTC).strftime("%Y-%m-%d %H:%M")
