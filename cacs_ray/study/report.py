"""study.json -> study.html and study.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from cacs_ray.data.files import write_bytes
from cacs_ray.evaluation import figures
from cacs_ray.evaluation.pages import page_environment
from cacs_ray.evaluation.scored_log import BUCKETS
from cacs_ray.study.plan import FULL, VARIANTS, WEIGHTED
from cacs_ray.study.tables import (
    COLD_START,
    coverage_table,
    markdown,
    seen_figure,
    tables_of,
)

Branch = Mapping[str, Any]

_TEMPLATES: Final = Path(__file__).parent / "templates"
# What takes features away, and policies, are so far off that nothing else would show.
_DRAWN: Final = tuple(
    name
    for name, variant in {**VARIANTS, **WEIGHTED}.items()
    if name != FULL and not variant.without
)
_LINES: Final = dict(
    zip(
        COLD_START,
        ("#1f5fa8", "#b0413e", "#5b9b6c", "#c98b2b", "#8b6bb1", "#3f8f9e", "#9aa3ad"),
        strict=True,
    )
)


def write_study(study: Branch, out: Path) -> None:
    """Write the page and the Markdown tables of a study."""
    sources = {name: tables_of(study, name) for name in study["sources"]}
    coverage = coverage_table(study["coverage"]) if study["coverage"] else None
    lines = []
    for name, tables in sources.items():
        lines += [f"### {name}", "", *(markdown(table) for table in tables)]
    if coverage:
        lines.append(markdown(coverage))
    write_bytes(out / "study.md", "\n".join(lines).encode())
    environment = page_environment(_TEMPLATES)
    page = environment.get_template("study.html").render(
        study=study,
        sources=sources,
        coverage=coverage,
        plots={name: _plots(study, name) for name in sources},
    )
    write_bytes(out / "study.html", page.encode())


def _plots(study: Branch, source: str) -> list[tuple[str, Markup]]:
    """Draw differences to the full method, and value by impressions already seen."""
    summary = study["sources"][source]["summary"]
    has_truth = "gain" in summary[FULL]
    shown = (
        (("gain", "gain"), ("gain/rare", "gain, rare half"), ("gain/new", "among new"))
        if has_truth
        else (("lift", "lift, points"), ("lift_choice", "lift with a choice, points"))
    )
    plots = []
    for figure, label in shown:
        rows = [
            (name, one[figure]["less"])
            for name, one in summary.items()
            if name in _DRAWN and "less" in one.get(figure, {})
        ]
        drawn = figures.forest_plot(rows, f"{source}: {label}, less the full method")
        plots.append((f"{label}: less the full method", Markup(drawn)))
    if has_truth:
        curves = {
            name: {bucket: summary[name].get(seen_figure(bucket)) for bucket in BUCKETS}
            for name in COLD_START
            if name in summary
        }
        known = {n: {b: v for b, v in c.items() if v} for n, c in curves.items()}
        drawn = figures.bucket_plot(known, BUCKETS, "normalised gain", _LINES)
        plots.append(("Value by impressions already seen", Markup(drawn)))
    return plots
