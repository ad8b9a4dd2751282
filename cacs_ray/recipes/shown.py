"""What people see in the terminal: steps, the table of policies, one answer."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_POLICIES = ("random", "popular", "post_rank", "parallel", "cacs", "teacher")
_MICROS = 1e6


def _console() -> Console:
    # Standard output belongs to the last line of JSON.
    return Console(stderr=True, highlight=False)


def show_step(number: int, what: str, how: str) -> None:
    """Say which step begins."""
    _console().print(f"\n[bold cyan]{number}. {what}[/]  [dim]{how}[/]")


def show_policies(report: Mapping[str, Any]) -> None:
    """Print the policies with their offline estimate and their true worth."""
    table = Table(
        title="Policies on a day that no model has seen (95 % intervals)",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("policy", style="bold")
    for name in ("sCTR %", "true CTR %", "true RPM", "normalised gain"):
        table.add_column(name, justify="right")
    truth = report["truth"]
    for policy in _POLICIES:
        played = truth["next_day"][policy]
        offline = report["policies"].get(policy, report["policies"]["cacs"])
        gain = truth["choice_gain"].get(policy)
        table.add_row(
            policy,
            _interval(offline["sctr"], 100, 2),
            _interval(played["true_ctr"], 100, 3),
            _interval(played["rpm_micros"], 1 / _MICROS, 2),
            _interval(gain["all"], 1, 3) if gain else _same_choice(policy),
        )
    console = _console()
    console.print()
    console.print(table)
    console.print(
        "[dim]sCTR: clicks / impressions of logged impressions whose creative the "
        "policy would choose.\ntrue CTR, RPM: the next day played through the auction "
        "with the market's own click probabilities; RPM is revenue per 1,000 "
        "impressions.\nnormalised gain: 0 = random creative, 1 = best creative for "
        "each user. post_rank and parallel choose the same creatives as cacs.[/]\n"
    )


def _same_choice(policy: str) -> str:
    return "0" if policy == "random" else "as cacs"


def _interval(figure: Mapping[str, float | None], scale: float, digits: int) -> str:
    parts = [figure[name] for name in ("value", "low", "high")]
    if any(part is None for part in parts):
        return "-"
    value, low, high = (f"{scale * float(part or 0):.{digits}f}" for part in parts)
    return f"{value} [{low}, {high}]"


def show_answer(
    request: Mapping[str, Any], answer: Mapping[str, Any], titles: Mapping[str, str]
) -> None:
    """Print one answer of the service in readable form."""
    table = Table(
        title=(
            f"Request {request['request_id']} of user {request['user_id']}: "
            f"{len(request['candidates'])} candidate ads, release {answer['release']}"
        ),
        title_justify="left",
        title_style="bold",
    )
    for name in ("slot", "ad", "creative", "title"):
        table.add_column(name)
    for name in ("pCTR %", "eCPM", "price per click", "propensity"):
        table.add_column(name, justify="right")
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
    _console().print(table)
