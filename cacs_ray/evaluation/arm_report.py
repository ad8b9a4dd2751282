"""arms.json -> arms.html: one page that needs nothing but itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from cacs_ray.data.files import write_bytes
from cacs_ray.evaluation import figures
from cacs_ray.evaluation.report import plain_report, report_environment

_KINDS: Final = (
    ("ctr", "CTR", "percent"),
    ("rpm_micros", "RPM", "money"),
    ("page_rpm_micros", "page RPM", "money"),
)
_PLOTS: Final = (
    ("ctr", "CTR, difference in points", 100.0),
    ("page_rpm_micros", "page RPM, difference", 1e-6),
)


def render_arms(report: Mapping[str, Any]) -> str:
    """Return the page of what `arms.compare_arms` returned."""
    plain = plain_report(report)
    page: str = (
        report_environment()
        .get_template("arms.html")
        .render(
            report=plain,
            kinds=_KINDS,
            plots=[_plots(pair) for pair in plain["pairs"]],
        )
    )
    return page


def write_arms(report: Mapping[str, Any], path: str | Path) -> None:
    """Write the page to a file, whole or not at all."""
    write_bytes(path, render_arms(report).encode())


def _plots(pair: Mapping[str, Any]) -> list[Markup]:
    if pair["first_look_us"] is None:
        return []
    return [
        Markup(figures.sequence_plot(pair["metrics"][name]["curve"], label, scale))
        for name, label, scale in _PLOTS
    ]
