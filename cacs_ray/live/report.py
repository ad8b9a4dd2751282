"""live.json -> live.html and live.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from cacs_ray.data.files import write_bytes
from cacs_ray.evaluation.figures import lines_plot
from cacs_ray.evaluation.pages import page_environment
from cacs_ray.live.plan import ARMS, GREEDY, ORACLE
from cacs_ray.study.tables import Column, Table, interval_text, markdown

Branch = Mapping[str, Any]

_TEMPLATES: Final = Path(__file__).parent / "templates"
_LESS: Final = "less"
_COLUMNS: Final[tuple[Column, ...]] = (
    ("true_ctr", "true CTR, %", 2, 100),
    ("rpm", "RPM", 2, 1),
    ("regret", "regret, %", 2, 100),
    ("regret_value", "regret of value, %", 2, 100),
    ("gain", "gain", 3, 1),
    ("gain_new", "gain, best is new", 3, 1),
    ("found", "new best found, %", 1, 100),
    ("new_share", "new among shown, %", 1, 100),
)
_PLOTS: Final = (
    ("cumulative", "Cumulative gain", "clicks so far, less greedy", 1.0),
    ("regret", "Regret so far", "share of the oracle's clicks missed, %", 100.0),
    ("true_ctr", "True CTR of the day", "true CTR, %", 100.0),
    ("found", "New best creatives found", "share found on the day, %", 100.0),
)
_COLOURS: Final = (
    "#1f5fa8", "#b0413e", "#8b6bb1", "#5b9b6c", "#c98b2b", "#3f8f9e",
    "#7a5230", "#d07fa6", "#4a5560", "#6f8f2f", "#9aa3ad",
)  # fmt: skip


def write_live(live: Branch, out: Path) -> None:
    """Write the page and the Markdown tables of a comparison of loops."""
    tables = tables_of(live)
    text = "\n".join(markdown(table) for table in tables)
    write_bytes(out / "live.md", text.encode())
    environment = page_environment(_TEMPLATES)
    page = environment.get_template("live.html").render(
        live=live, tables=tables, plots=_plots(live)
    )
    write_bytes(out / "live.html", page.encode())


def tables_of(live: Branch) -> list[Table]:
    """Return the tables that the figures allow."""
    tables = [
        _table(
            live,
            "All days",
            "Mean over seeds with the interval of that mean. Regret: the share of the "
            "oracle's clicks, or of its clicks x bids, that is missed. Gain is of the "
            "choice inside every candidate ad, 0 random and 1 the best for the user; "
            "then the same where that best was born after the log. Found: new best "
            "creatives that get the most impressions of their ad.",
            "",
        ),
        _table(
            live, "The last two days", "The same, at the end of the loops.", "last/"
        ),
    ]
    if GREEDY in live["arms"]:
        for prefix, when in (("", "all days"), ("last/", "the last two days")):
            tables.append(_differences(live, prefix, when))
    return [*tables, _ages(live), _gates(live)]


def _table(live: Branch, title: str, note: str, prefix: str) -> Table:
    rows = tuple(
        (name, *(interval_text(one.get(prefix + f), d, k) for f, _, d, k in _COLUMNS))
        for name, one in live["arms"].items()
    )
    return Table(
        title, note, ("arm", *(heading for _, heading, _, _ in _COLUMNS)), rows
    )


def _differences(live: Branch, prefix: str, when: str) -> Table:
    rows = tuple(
        (
            name,
            *(
                interval_text(one.get(prefix + f, {}).get(_LESS), d, k, sign=True)
                for f, _, d, k in _COLUMNS
            ),
        )
        for name, one in live["arms"].items()
        if name not in (GREEDY, ORACLE)
    )
    return Table(
        f"Less greedy, {when}",
        "Paired seed by seed: the same market, first log and requests. Below zero "
        "regret is less than that of a loop that learns from its own choices alone.",
        ("arm", *(heading for _, heading, _, _ in _COLUMNS)),
        rows,
    )


def _ages(live: Branch) -> Table:
    ages = sorted({int(age) for one in live["ages"].values() for age in one})
    rows = tuple(
        (name, *(_share(one.get(str(age))) for age in ages))
        for name, one in live["ages"].items()
    )
    return Table(
        "New best creatives found, by age in whole days",
        "Percent, over all seeds, and of how many.",
        ("arm", *(str(age) for age in ages)),
        rows,
    )


def _gates(live: Branch) -> Table:
    rows = tuple(
        (
            name,
            ARMS[name].says,
            interval_text(one.get("promoted"), 0, 100),
        )
        for name, one in live["arms"].items()
        if name in ARMS
    )
    return Table(
        "Arms and the gate",
        "Share of days whose retrained release passed the gate and served on.",
        ("arm", "decides by", "promoted, %"),
        rows,
    )


def _share(one: Branch | None) -> str:
    return f"{100 * one['found']:.0f} of {one['findable']:.0f}" if one else "-"


def _plots(live: Branch) -> list[tuple[str, Markup]]:
    colours = dict(zip(ARMS, _COLOURS, strict=True)) | {ORACLE: "#1d242b"}
    places: Sequence[int] = range(1, len(live["days"]) + 1)
    plots = []
    for figure, caption, label, scale in _PLOTS:
        curves = {
            name: points
            for name, points in live["curves"][figure].items()
            # The oracle is so far above that nothing else would show.
            if not (figure in ("cumulative", "regret") and name == ORACLE)
        }
        drawn = lines_plot(curves, places, label, colours, scale)
        plots.append((caption, Markup(drawn)))
    return plots
