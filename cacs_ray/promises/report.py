"""Outcomes as JSON, as Markdown and as one HTML page."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cacs_ray.data.files import write_bytes, write_json
from cacs_ray.promises.verdict import Outcome, Verdict

_HEADINGS: Final = (
    "promise",
    "check",
    "failed / asked",
    "figure",
    "limit",
    "kept",
    "negative control",
)
_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:80rem;margin:2rem auto;"
    "padding:0 1rem}table{border-collapse:collapse}td,th{padding:.3rem .8rem .3rem 0;"
    "text-align:left;vertical-align:top;border-bottom:1px solid #ddd}"
)


def write_report(
    out: Path, outcomes: Sequence[Outcome], machine: Mapping[str, Any], scale: float
) -> None:
    """Write promises.json, promises.md and promises.html.

    Args:
        out: directory for them.
        outcomes: the promises that were checked.
        machine: what they were checked on.
        scale: of the full durations and counts.
    """
    rows = [outcome.as_json() for outcome in outcomes]
    kept = {"machine": dict(machine), "scale": scale, "outcomes": rows}
    write_json(out / "promises.json", kept)
    write_bytes(out / "promises.md", markdown(outcomes, machine, scale).encode())
    write_bytes(out / "promises.html", page(outcomes, machine, scale).encode())


def markdown(
    outcomes: Sequence[Outcome], machine: Mapping[str, Any], scale: float
) -> str:
    """Return the machine, one table, and the setting of each promise."""
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    lines = [f"Machine: {facts}. Scale {scale:g}.", ""]
    lines += [_line(_HEADINGS), _line(["---"] * len(_HEADINGS))]
    lines += [_line(cells) for cells in _table(outcomes)]
    lines += ["", *(f"- **{one.promise}**: {one.setting}" for one in outcomes), ""]
    return "\n".join(lines)


def page(outcomes: Sequence[Outcome], machine: Mapping[str, Any], scale: float) -> str:
    """Return the same as one page that loads nothing."""
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    heads = "".join(f"<th>{html.escape(one)}" for one in _HEADINGS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in cells)
        for cells in _table(outcomes)
    )
    settings = "".join(
        f"<li><b>{html.escape(one.promise)}</b>: {html.escape(one.setting)}"
        for one in outcomes
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Promises</title>"
        f"<style>{_STYLE}</style><h1>Promises</h1>"
        f"<p>{html.escape(facts)}. Scale {scale:g}.</p>"
        f"<table><tr>{heads}{body}</table><ul>{settings}</ul></html>"
    )


def _table(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Return a row per check, then one of the negative control."""
    rows = []
    for outcome in outcomes:
        rows += [[outcome.promise, *_cells(one), ""] for one in outcome.verdicts]
        caught = "caught" if outcome.is_control_caught else "NOT CAUGHT"
        said = f"{caught}: {outcome.injected}"
        rows += [[outcome.promise, *_cells(one), said] for one in outcome.control]
    return rows


def _cells(verdict: Verdict) -> list[str]:
    note = f" ({verdict.note})" if verdict.note else ""
    return [
        verdict.check,
        f"{verdict.failed:,} / {verdict.asked:,}",
        verdict.figure + note,
        verdict.limit,
        "kept" if verdict.is_kept else "BROKEN",
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
