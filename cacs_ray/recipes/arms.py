"""The arms of a live test compared, from the files of the service to a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from cacs_ray.data.feedback import read_table
from cacs_ray.data.files import write_json
from cacs_ray.evaluation.arm_report import write_arms
from cacs_ray.evaluation.arms import CONCURRENT_SHARE, ArmSettings, compare_arms
from cacs_ray.evaluation.report import plain_report
from cacs_ray.recipes.shown import console
from cacs_ray.schema import CLICKS, DECISIONS

_METRICS = (("ctr", "CTR %", 100.0), ("page_rpm_micros", "page RPM", 1e-6))
"""What the terminal shows; the report has all."""


def report_arms(
    decisions: str | Path,
    clicks: str | Path,
    out: str | Path,
    settings: ArmSettings,
    *,
    arms: Sequence[str] | None = None,
    shares: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Compare arms; write arms.json and arms.html, and print both tables.

    Args:
        decisions: decision log, a file or a directory.
        clicks: clicks, a file or a directory.
        out: directory of the report.
        settings: as of `compare_arms`.
        arms: as of `compare_arms`.
        shares: as of `compare_arms`.

    Returns:
        Where the report is, and per pair and metric which arm is better (None
        while not sure) with its always-valid p value, for the last line.

    Raises:
        InputError: as `read_table` and `compare_arms`.
    """
    root = Path(out).absolute()
    compared = compare_arms(
        read_table(str(decisions), DECISIONS),
        read_table(str(clicks), CLICKS),
        settings,
        arms=arms,
        shares=shares,
    )
    report = plain_report(compared)
    write_json(root / "arms.json", report)
    write_arms(report, root / "arms.html")
    show_arms(report)
    ratio = report["sample_ratio"]
    return {
        "out": str(root),
        "report": str(root / "arms.html"),
        "is_sample_ratio_mismatch": None if ratio is None else ratio["is_mismatch"],
        "pairs": [_headline(pair) for pair in report["pairs"]],
    }


def _headline(pair: Mapping[str, Any]) -> dict[str, Any]:
    valid = {name: one["always_valid"] for name, one in pair["metrics"].items()}
    return {
        "first": pair["first"],
        "second": pair["second"],
        "concurrent_share": pair["concurrent_share"],
        **{
            name: {key: one[key] for key in ("better", "p_value", "lift")}
            for name, one in valid.items()
        },
    }


def show_arms(report: Mapping[str, Any]) -> None:
    """Print what each arm brought, and how sure each difference is."""
    shown = console()
    arms = _table("Arms", "arm", "users", "page views", "impressions", "clicks")
    for _, title, _ in _METRICS:
        arms.add_column(title, justify="right")
    arms.add_column("fallbacks %", justify="right")
    for name, arm in report["arms"].items():
        arms.add_row(
            escape(name),
            *(f"{arm[key]:,.0f}" for key in ("users", "page_views")),
            *(f"{arm[key]:,.0f}" for key in ("impressions", "clicks")),
            *(_interval(arm["metrics"][key], scale) for key, _, scale in _METRICS),
            f"{100 * arm['fallback_share']:.2f}",
        )
    shown.print(arms)
    pairs = _table("Lift, always valid", "second against first", "metric", "lift %")
    pairs.add_column("p", justify="right")
    pairs.add_column("better")
    for pair in report["pairs"]:
        for key, title, _ in _METRICS:
            one = pair["metrics"][key]["always_valid"]
            pairs.add_row(
                escape(f"{pair['second']} against {pair['first']}"),
                title.split(" %")[0],
                _interval(one["lift"], 100.0),
                "-" if one["p_value"] is None else f"{one['p_value']:.4f}",
                escape(one["better"] or "not sure yet"),
            )
    shown.print(pairs)
    for pair in report["pairs"]:
        if pair["concurrent_share"] < CONCURRENT_SHARE:
            shown.print(
                f"[bold red]One after the other[/]: {escape(pair['second'])} and "
                f"{escape(pair['first'])} served together for "
                f"{100 * pair['concurrent_share']:.0f} % of the page views only; what "
                "differs may be the days, not the arms."
            )
    ratio = report["sample_ratio"]
    if ratio is not None and ratio["is_mismatch"]:
        shown.print(
            f"[bold red]Sample ratio mismatch[/] (p = {ratio['p_value']:.2g}): users "
            "were not split as configured; trust no comparison before the cause is "
            "found."
        )


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(first, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _interval(one: Mapping[str, float | None], scale: float) -> str:
    value, low, high = (
        None if one[name] is None else f"{scale * float(one[name] or 0):.3f}"
        for name in ("value", "low", "high")
    )
    if value is None:
        return "-"
    return value if low is None or high is None else f"{value} \\[{low}, {high}]"
