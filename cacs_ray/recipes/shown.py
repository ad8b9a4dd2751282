"""What people see in the terminal: steps, the table of policies, one answer."""

import math
import os
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_POLICIES = ("random", "popular", "post_rank", "parallel", "cacs", "teacher")
_MICROS = 1e6
_FILE_WIDTH = 120
_WIDE = 104
"""From this width on a value and its interval stand on one line."""


def console() -> Console:
    """Return the console for people; standard output belongs to the line of JSON."""
    shown = Console(stderr=True, highlight=False)
    # A file or a pipe has no width of its own; 80 would squeeze every table.
    if not shown.is_terminal and "COLUMNS" not in os.environ:
        shown.width = _FILE_WIDTH
    return shown


def figure(value: float) -> str:
    """Say a number as people read it: four digits, no powers of ten.

    >>> [figure(value) for value in (64063.2, 38.307, 0.18431, 0.0000552, 12)]
    ['64,063', '38.31', '0.1843', '0.0001', '12']
    """
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.4f}"


def show_step(number: int, what: str, how: str) -> None:
    """Say which step begins."""
    console().print(f"\n[bold cyan]{number}. {what}[/]  [dim]{how}[/]")


def show_policies(report: Mapping[str, Any]) -> None:
    """Print the policies with their offline estimate and their true worth."""
    shown = console()
    gap = " " if shown.width >= _WIDE else "\n"
    table = _table("Policies on a day that no model has seen (95 % intervals)")
    table.add_column("policy", style="bold", no_wrap=True)
    for name in ("sCTR %", "true CTR %", "true RPM", "normalised gain"):
        table.add_column(name, justify="right", no_wrap=True)
    truth = report["truth"]
    for policy in _POLICIES:
        played = truth["next_day"][policy]
        offline = report["policies"].get(policy, report["policies"]["cacs"])
        gain = truth["choice_gain"].get(policy)
        table.add_row(
            policy,
            _interval(offline["sctr"], 100, 2, gap),
            _interval(played["true_ctr"], 100, 2, gap),
            _interval(played["rpm_micros"], 1 / _MICROS, 2, gap),
            _interval(gain["all"], 1, 3, gap) if gain else _same_choice(policy),
            style="cyan" if policy == "cacs" else None,
        )
    shown.print()
    shown.print(table)
    shown.print(
        "[dim]sCTR  clicks / impressions of logged impressions whose creative the "
        "policy would choose\ntrue CTR, RPM  the next day played through the auction "
        "with the market's own click probabilities;\n               RPM is revenue "
        "per 1,000 impressions\nnormalised gain  0 = random creative, 1 = best "
        "creative for each user; post_rank and parallel choose as cacs[/]\n"
    )


def show_verdict(verdict: Mapping[str, Any]) -> None:
    """Print every check of the gate, what failed first, the notes and the outcome."""
    table = _table("Gate: may this release become the champion?")
    table.add_column("check", no_wrap=True)
    for name in ("value", "needed"):
        table.add_column(name, justify="right")
    table.add_column("")
    table.add_column("why", overflow="fold")
    for check in sorted(verdict["checks"], key=lambda one: bool(one["passed"])):
        passed = check["passed"]
        table.add_row(
            escape(check["name"]),
            escape(_plain_value(check["value"])),
            escape(_plain_value(check["threshold"])),
            "[green]ok[/]" if passed else "[bold red]NO[/]",
            escape((check["reason"] or "").partition(" (value")[0]),
        )
    shown = console()
    shown.print(table)
    for note in verdict["notes"]:
        shown.print(f"note: {escape(note)}")
    outcome = "[bold green]passed[/]" if verdict["passed"] else "[bold red]refused[/]"
    shown.print(f"{outcome}: {escape(str(verdict['reason']))}\n")


def _plain_value(value: object) -> str:
    """Say a value or a threshold of any kind in short."""
    if isinstance(value, list):
        return " to ".join(_plain_value(one) for one in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    return figure(value) if math.isfinite(value) else "-"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)


def _same_choice(policy: str) -> str:
    return "0" if policy == "random" else "as cacs"


def _interval(
    one: Mapping[str, float | None], scale: float, digits: int, gap: str
) -> str:
    parts = [one[name] for name in ("value", "low", "high")]
    if any(part is None for part in parts):
        return "-"
    value, low, high = (f"{scale * float(part or 0):.{digits}f}" for part in parts)
    return f"{value}{gap}[{low}, {high}]"


def show_answer(
    request: Mapping[str, Any], answer: Mapping[str, Any], titles: Mapping[str, str]
) -> None:
    """Print one answer of the service in readable form."""
    table = _table(
        f"Request {request['request_id']} of user {request['user_id']}: "
        f"{len(request['candidates'])} candidate ads, release {answer['release']}"
    )
    for name in ("slot", "ad", "creative"):
        table.add_column(name, no_wrap=True)
    # Alone it may wrap, so that on a narrow screen no figure is cut.
    table.add_column("title")
    for name in ("pCTR %", "eCPM", "price", "propensity"):
        table.add_column(name, justify="right", no_wrap=True)
    for placed in answer["placements"]:
        table.add_row(
            str(placed["slot"]),
            placed["ad_id"],
            placed["creative_id"],
            titles.get(placed["creative_id"], ""),
            f"{100 * placed['pctr']:.2f}",
            f"{placed['ecpm_micros'] / _MICROS:.2f}",
            f"{placed['price_micros'] / _MICROS:.3f}",
            f"{placed['propensity']:.3f}",
        )
    console().print(table)


def show_end(addresses: Mapping[str, str], seconds: float, *, stays: bool) -> None:
    """Print where things are, apart from all that came before."""
    shown = console()
    shown.rule(f"[bold green]Done in {seconds:,.0f} s", align="left", style="green")
    for name, address in addresses.items():
        # Addresses stay whole on narrow screens, to be clicked or copied.
        shown.print(f"  [bold]{name:<9}[/] {address}", soft_wrap=True)
    if stays:
        shown.print("\n  The service and MLflow stay up until Ctrl-C.")
