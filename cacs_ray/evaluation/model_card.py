"""The model card: what a release is for, what it was made from, where it is weak.

A Markdown document for people who read a registry. Every figure in it comes from the
report, the configuration and the manifest of the bundle; one that is not there is
called missing.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jinja2

from cacs_ray.evaluation.checks import Report, at, is_number
from cacs_ray.evaluation.gate import GateRules
from cacs_ray.evaluation.report import plain_report, report_environment
from cacs_ray.evaluation.scored_log import BUCKETS
from cacs_ray.tracking.views import spaced

CARD: Final = "model_card.md"
"""Its file, beside the report."""

MISSING: Final = "missing"

MOST: Final = 5000
"""Characters that MLflow's database keeps of a description."""

_SIDES: Final = ("user", "request", "ad", "creative")
_STAGES: Final = ("teacher", "student", "ranker")
_MOST_FIELDS: Final = 5


@dataclass(frozen=True, slots=True)
class Origin:
    """How a bundle was made."""

    manifest: Report
    """Of the bundle: its id and lineage."""
    config: Report
    """Every number of the run."""
    recipe: str
    """What `config` is called."""
    code: Mapping[str, str] = field(default_factory=dict)
    """Tags of the commit, as of `tracking.source.code_tags`."""


def render_card(
    report: Report, origin: Origin, outcome: str, rules: GateRules | None = None
) -> str:
    """Return the card of a bundle as Markdown.

    Args:
        report: as of `evaluation.report.plain_report`; any part may be missing.
        origin: how the bundle was made.
        outcome: what came out, in Markdown, for the card's head.
        rules: of the gate; what they would refuse is a limit of the model.
    """
    plain = plain_report(report)
    page: str = (
        card_environment()
        .get_template("model_card.md")
        .render(
            report=plain,
            origin=origin,
            outcome=outcome,
            windows=list(_windows(plain)),
            slices=list(slices(plain)),
            limits=list(limits(plain, rules or GateRules())),
            fields=_fields(plain),
            seeds={
                stage: at(origin.config, stage, "loop", "seed") for stage in _STAGES
            },
            kept={stage: at(plain, "stages", stage, "kept_epoch") for stage in _STAGES},
            at=at,
        )
    )
    return page


def card_environment() -> jinja2.Environment:
    """Return what renders a card: as for reports, but a missing figure says so."""
    environment = report_environment()
    known = environment.filters
    environment.filters.update(
        {
            name: _or_missing(known[name])
            for name in ("number", "percent", "count", "moment")
        },
        interval=_interval,
        given=lambda value: MISSING if value is None else _cell(str(value)),
        cell=_cell,
    )
    return environment


def slices(report: Report) -> Iterator[dict[str, Any]]:
    """Yield figures by how often the chosen, or shown, creative had been shown.

    Buckets that no row falls into are left out.
    """
    for bucket in BUCKETS:
        choice = at(report, "policies", "cacs", "by_bucket", bucket)
        ranker = at(report, "ranker", "all", "by_bucket", bucket)
        if choice is None and ranker is None:
            continue
        yield {
            "name": bucket,
            "share": at(choice, "share"),
            "lift": at(choice, "lift_over_random", "snips"),
            "clicks": at(ranker, "calibration", "clicks"),
            "auc": at(ranker, "auc"),
            "ratio": at(ranker, "calibration", "ratio"),
            "top1": at(report, "agreement", "by_bucket", bucket, "top1"),
        }


def limits(report: Report, rules: GateRules) -> Iterator[str]:
    """Yield what the measured figures warn of, one sentence each, in plain Markdown."""
    parts = ("policies", "ranker", "agreement", "drift")
    if absent := [part for part in parts if not at(report, part)]:
        yield f"**Not measured**: the report has no {', no '.join(absent)}."
    yield from _support(report)
    yield from _logging(report)
    yield from _thin_slices(report, rules)
    yield from _miscalibrated(report, rules)
    yield from _drifted(report, rules)
    if not at(report, "truth"):
        yield (
            "No true click probabilities are known here: all figures are estimates "
            "from the log. They value the creative of the ad that was shown, and do "
            "not see that another creative may let another ad win the slot."
        )


def version_description(card: str, verdict: str = "", most: int = MOST) -> str:
    """Return what the page of a registered version shows: verdict, then card.

    The first line, all that a table of versions shows, is the verdict or the outcome.
    Sections that do not fit are left out from the end, and the last line says so.

    Args:
        card: as of `render_card`; empty when there is none.
        verdict: of the gate, in Markdown; empty before it was asked.
        most: characters that there is room for.
    """
    title, _, body = card.partition("\n")
    text = body.strip() if title.startswith("# ") else card
    if verdict:
        text = f"{verdict}\n\n{text}".rstrip()
    text = spaced(text)
    if len(text) <= most:
        return text
    rest = "\n\nThe whole card: `model_card.md` among the artifacts of its run."
    kept, *sections = text.split("\n## ")
    for section in sections:
        longer = f"{kept}\n## {section}"
        if len(longer) + len(rest) > most:
            break
        kept = longer
    return kept[: most - len(rest)].rstrip() + rest


def _windows(report: Report) -> Iterator[dict[str, Any]]:
    """Yield the three windows with their rows."""
    edges = ("train_start_us", "train_end_us", "validation_end_us", "test_end_us")
    times = [at(report, "windows", edge) for edge in edges]
    names = ("train", "validation", "test")
    for name, start, end in zip(names, times[:-1], times[1:], strict=True):
        rows = at(report, "stages", "features", name)
        yield {"name": name, "start": start, "end": end, "rows": rows}


def _fields(report: Report) -> dict[str, list[str]]:
    """Return the names of the declared features by side."""
    names = [key.partition(".") for key in at(report, "drift") or {}]
    return {
        side: found
        for side in _SIDES
        if (found := [name for of, _, name in names if of == side])
    }


def _support(report: Report) -> Iterator[str]:
    cacs = at(report, "policies", "cacs")
    unsupported = at(cacs, "unsupported_share")
    if is_number(unsupported) and unsupported > 0:
        yield (
            f"**Missing support**: {_percent(unsupported)} of the choices fall on "
            "creatives that the judged log never shows; nothing is known of them."
        )
    sample, seen = at(cacs, "effective_sample_size"), at(report, "impressions")
    if is_number(sample) and is_number(seen):
        clicks = at(cacs, "matched_clicks")
        with_clicks = f", with {clicks:,.0f} clicks" if is_number(clicks) else ""
        yield (
            f"**Thin evidence**: of {seen:,.0f} test impressions the estimates rest "
            f"on an effective sample of {sample:,.0f}{with_clicks}."
        )
    low = at(cacs, "lift_over_random", "snips", "low")
    if is_number(low) and low <= 0:
        yield (
            "**Not surely better than chance**: the interval of the lift over random "
            f"choice begins at {low:.1f} %."
        )


def _logging(report: Report) -> Iterator[str]:
    """Yield what the way creatives were exposed in the log does to the estimates."""
    known = at(report, "known_propensity_share")
    if is_number(known) and known < 1:
        yield (
            f"**Exposure bias**: the propensity is known for {_percent(known)} of the "
            "test impressions; the others are taken as chosen uniformly, and where "
            "they were not, the figures favour what was shown often."
        )
    importance = at(report, "policies", "cacs", "mean_importance")
    if is_number(importance):
        yield (
            f"**Exposure of the log**: the mean importance weight is {importance:.2f}; "
            "1 where the logging policies show whatever this model would choose."
        )


def _thin_slices(report: Report, rules: GateRules) -> Iterator[str]:
    thin = [
        f"{one['name']} ({one['clicks']:,.0f} clicks)"
        for one in slices(report)
        if is_number(one["clicks"]) and one["clicks"] < rules.min_bucket_clicks
    ]
    if thin:
        yield (
            "**Slices with few rows**: creatives shown before this often have fewer "
            f"than {rules.min_bucket_clicks:.0f} test clicks, too few to be judged: "
            f"{', '.join(thin)}."
        )


def _miscalibrated(report: Report, rules: GateRules) -> Iterator[str]:
    low, high = rules.min_calibration, rules.max_calibration
    for part, where in (("all", "all impressions"), ("chosen", "the choices")):
        ratio = at(report, "ranker", part, "calibration", "ratio")
        if is_number(ratio) and not low <= ratio <= high:
            yield (
                f"**Calibration**: on {where} {ratio:.2f} clicks are predicted for "
                f"each seen one, outside {low:g} to {high:g}."
            )


def _drifted(report: Report, rules: GateRules) -> Iterator[str]:
    fields = at(report, "drift") or {}
    drifted = [
        f"`{_cell(name)}` ({at(one, 'divergence'):.2f} bits)"
        for name, one in fields.items()
        if is_number(at(one, "divergence"))
        and at(one, "divergence")
        > (rules.max_id_drift if at(one, "kind") == "id" else rules.max_drift)
    ]
    if drifted:
        yield (
            "**Drift**: the test window is not like the training window in "
            f"{', '.join(drifted)}."
        )
    unknown = {
        name: share
        for name, one in fields.items()
        if is_number(share := at(one, "unknown_share")) and share > 0
    }
    if unknown:
        most = sorted(unknown, key=unknown.__getitem__, reverse=True)[:_MOST_FIELDS]
        told = ", ".join(f"`{_cell(name)}` {_percent(unknown[name])}" for name in most)
        yield (
            f"**Values that training never saw**, in the test window, the most: {told}."
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(one: Report | None, scale: float = 1.0, digits: int = 1) -> str:
    """Say a figure with its interval."""
    value, low, high = (at(one or {}, name) for name in ("value", "low", "high"))
    if not is_number(value):
        return MISSING
    told = f"{scale * value:.{digits}f}"
    if not is_number(low) or not is_number(high):
        return told
    return f"{told} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def _cell(text: str) -> str:
    """Return a text that breaks neither a row of a table nor a span of code.

    >>> _cell("a|b`c")
    'a/b c'
    """
    return " ".join(text.replace("|", "/").replace("`", " ").split())


def _or_missing(format_it: Any) -> Any:  # noqa: ANN401 - a filter of any signature
    """Return a filter that says of None, and of no number, that it is missing."""

    def filtered(value: Any, *options: Any) -> str:  # noqa: ANN401
        is_gone = value is None or (isinstance(value, float) and math.isnan(value))
        return MISSING if is_gone else str(format_it(value, *options))

    return filtered
