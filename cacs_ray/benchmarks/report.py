"""Outcomes as JSON, as a Markdown table, and as a section of a document."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from cacs_ray.benchmarks.outcome import Outcome
from cacs_ray.data.files import write_bytes, write_json
from cacs_ray.errors import InputError

START: Final = "<!-- bench:start -->"
END: Final = "<!-- bench:end -->"
_HEADINGS: Final = (
    "comparison",
    "ours",
    "theirs",
    "unit",
    "median ratio",
    "range",
    "goal",
    "met",
    "note",
)


def write_report(
    out: Path, outcomes: Sequence[Outcome], machine: Mapping[str, Any]
) -> None:
    """Write bench.json and bench.md."""
    rows = [outcome.as_json() for outcome in outcomes]
    write_json(out / "bench.json", {"machine": dict(machine), "outcomes": rows})
    write_bytes(out / "bench.md", markdown(outcomes, machine).encode())


def markdown(outcomes: Sequence[Outcome], machine: Mapping[str, Any]) -> str:
    """Return the machine and one table."""
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    lines = [f"Machine: {facts}.", "", _line(_HEADINGS), _line(["---"] * 9)]
    return "\n".join([*lines, *(_line(_cells(one)) for one in outcomes), ""])


def show(outcomes: Sequence[Outcome]) -> None:
    """Print the table for people, on standard error."""
    table = Table(*_HEADINGS)
    for outcome in outcomes:
        table.add_row(*_cells(outcome))
    Console(stderr=True).print(table)


def replace_section(document: Path, text: str) -> None:
    """Put text between the markers of a document.

    Raises:
        InputError: the document has not each marker once, in their order.
    """
    whole = document.read_text()
    before, start, rest = whole.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in rest or END in after:
        raise InputError(
            f"needs {START} and {END} once each", source=str(document), rule="markers"
        )
    write_bytes(document, f"{before}{START}\n{text}\n{END}{after}".encode())


def _cells(outcome: Outcome) -> list[str]:
    met = {None: "", True: "yes", False: "**no**"}[outcome.is_met]
    low, high = min(outcome.ratios), max(outcome.ratios)
    return [
        outcome.comparison,
        _number(outcome.ours),
        "" if outcome.theirs is None else _number(outcome.theirs),
        outcome.unit,
        "" if outcome.theirs is None else f"{outcome.median:.3g}",
        f"{_number(low)} to {_number(high)}" if len(outcome.ratios) > 1 else "",
        "" if outcome.goal is None else str(outcome.goal),
        met,
        outcome.note,
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
