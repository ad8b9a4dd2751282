"""study.json -> tables of text, the same for the page and for Markdown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cacs_ray.evaluation.scored_log import BUCKETS
from cacs_ray.study.plan import FULL, RANKERS, VARIANTS, WEIGHTED

Branch = Mapping[str, Any]
_NONE: Final = "\N{EN DASH}"


Column = tuple[str, str, int, float]
"""Figure, its heading, digits, and what it is multiplied by."""

_OF_TRUTH: Final[tuple[Column, ...]] = (
    ("gain", "gain", 3, 1),
    ("gain/rare", "rare half", 3, 1),
    ("gain/frequent", "frequent half", 3, 1),
    ("gain/new", "among new", 3, 1),
)
_OF_LOGS: Final[tuple[Column, ...]] = (
    ("lift", "lift over random, %", 1, 1),
    ("lift_choice", "lift with a choice, %", 1, 1),
)
_OF_ALL: Final[tuple[Column, ...]] = (
    ("sctr", "sCTR, %", 2, 100),
    ("nsctr", "NSCTR, %", 2, 100),
    ("snips", "SNIPS, %", 2, 100),
    ("auc", "AUC", 4, 1),
    ("gauc_request", "GAUC by request", 4, 1),
    ("ne", "NE", 4, 1),
    ("ece", "ECE", 4, 1),
    ("top1", "agrees with teacher", 3, 1),
    ("rows_per_second", "rows/s", 0, 1),
)
_ORDER_COLUMNS: Final[tuple[Column, ...]] = (
    ("true_ctr", "true CTR, %", 2, 100),
    ("rpm", "RPM", 2, 1),
    ("ecpm", "eCPM", 2, 1),
    ("auc", "AUC", 4, 1),
    ("gauc_request", "GAUC by request", 4, 1),
    ("calibration_shown", "predicted / true, winners", 3, 1),
)
_LESS: Final = "less"


@dataclass(frozen=True, slots=True)
class Table:
    """A table as people read it."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_of(study: Branch, source: str) -> list[Table]:
    """Return the tables of one source that its figures allow."""
    tables = study["sources"][source]
    found = [_variants(tables["summary"]), _differences(tables["summary"])]
    if "gain" in tables["summary"][FULL]:
        found.append(_cold_start(tables["summary"]))
    found.append(_rankers(tables["rankers"]))
    if tables["cascade"]:
        found.append(_orders(tables["cascade"]))
        found.append(_calibration(tables["cascade"], tables["summary"]))
    if tables["metrics"]:
        found.append(_metrics(tables["metrics"]))
    return found


def _variants(summary: Branch) -> Table:
    has_truth = "gain" in summary[FULL]
    columns = (*(_OF_TRUTH if has_truth else _OF_LOGS), *_OF_ALL)
    return Table(
        "Variants",
        "Mean over seeds with the interval of that mean. Gain is normalised: 0 is "
        "random choice, 1 the oracle."
        if has_truth
        else "Mean over seeds with the interval of that mean; the log is one and the "
        "same, so this is the spread of training alone.",
        ("variant", *(heading for _, heading, _, _ in columns)),
        tuple(
            (_says(name), *(interval_text(one.get(f), d, k) for f, _, d, k in columns))
            for name, one in summary.items()
        ),
    )


def _differences(summary: Branch) -> Table:
    columns = _OF_TRUTH if "gain" in summary[FULL] else _OF_LOGS
    rows = [
        (
            name,
            *(
                interval_text(one.get(f, {}).get(_LESS), d, k, sign=True)
                for f, _, d, k in columns
            ),
        )
        for name, one in summary.items()
        if name != FULL
    ]
    return Table(
        "Variant less the full method",
        "Paired seed by seed, with the interval of the mean difference; below zero "
        "the full method is better.",
        ("variant", *(heading for _, heading, _, _ in columns)),
        tuple(rows),
    )


def _rankers(summary: Branch) -> Table:
    columns: tuple[Column, ...] = (
        ("auc", "AUC", 4, 1),
        ("gauc_request", "GAUC by request", 4, 1),
        ("ne", "NE", 4, 1),
        ("ece", "ECE", 4, 1),
        ("gain", "gain if it chose", 3, 1),
        ("lift_choice", "lift with a choice if it chose, %", 1, 1),
    )
    rows = [
        (
            f"{name}: {RANKERS[name].says}",
            *(interval_text(one.get(f), d, k) for f, _, d, k in columns),
            interval_text(one.get("ne", {}).get(_LESS), 4, 1, sign=True),
        )
        for name, one in summary.items()
    ]
    return Table(
        "Sharing V(c) with the serving ranker",
        "Click logits of the shown creatives, not calibrated; and what the ranker "
        "would gain if it scored every creative and chose itself.",
        ("ranker", *(h for _, h, _, _ in columns), "NE less that of frozen"),
        tuple(rows),
    )


COLD_START: Final = (
    FULL, "no_dropout", "no_content", "no_content_no_dropout", "content_only",
    "policy teacher", "policy popular",
)  # fmt: skip


def seen_figure(bucket: str) -> str:
    """Return the figure of choice among creatives of a bucket."""
    return "gain/new" if bucket == BUCKETS[0] else f"gain/seen {bucket}"


def _cold_start(summary: Branch) -> Table:
    rows = [
        (
            name,
            *(interval_text(summary[name].get(seen_figure(b)), 3, 1) for b in BUCKETS),
        )
        for name in COLD_START
        if name in summary
    ]
    return Table(
        "Cold start",
        "Normalised gain when only creatives of a list that training had shown so "
        "often may be chosen.",
        ("variant", *(f"seen {bucket}" for bucket in BUCKETS)),
        tuple(rows),
    )


def _orders(cascade: Branch) -> Table:
    rows = []
    for name, one in cascade["orders"].items():
        figures = [interval_text(one.get(f), d, k) for f, _, d, k in _ORDER_COLUMNS]
        less = [
            interval_text(_less_of_cacs(one, figure), digits, factor, sign=True)
            for figure, digits, factor in (("true_ctr", 2, 100), ("rpm", 2, 1))
        ]
        rows.append((name, *figures, *less))
    regret = {name: interval_text(v, 2, 100) for name, v in cascade["regret"].items()}
    return Table(
        "Orders of selection and ranking, through the auction",
        "The market's next day. RPM is GSP revenue, eCPM true CTR x bid, of 1000 "
        "impressions. AUC and calibration are over all candidate ads with the "
        "creatives that the order chose. Choosing before ranking loses "
        f"{regret.get('ecpm', _NONE)} % of eCPM against ranking every creative, "
        f"{regret.get('predicted_ecpm', _NONE)} % as the ranker itself values it.",
        (
            "order",
            *(heading for _, heading, _, _ in _ORDER_COLUMNS),
            "cacs less it: CTR, points",
            "cacs less it: RPM",
        ),
        tuple(rows),
    )


def _less_of_cacs(one: Branch, figure: str) -> Branch | None:
    """Turn `order less cacs` round."""
    less = one.get(figure, {}).get(_LESS)
    if less is None:
        return None
    low, high = less["high"], less["low"]
    return {
        "value": -less["value"],
        "low": None if low is None else -low,
        "high": None if high is None else -high,
    }


def _calibration(cascade: Branch, summary: Branch) -> Table:
    own = {
        name.removeprefix("ranker/"): value
        for name, value in summary["policy cacs"].items()
        if name.startswith("ranker/")
    }
    sources = {"cacs, on the log's own ads": own, **cascade["orders"]}
    figures = ("calibration", "ece", *(f"calibration/{b}" for b in BUCKETS))
    digits = (3, 4, *(3 for _ in BUCKETS))
    rows = [
        (
            name,
            *(
                interval_text(one.get(f), d, 1)
                for f, d in zip(figures, digits, strict=True)
            ),
        )
        for name, one in sources.items()
    ]
    return Table(
        "Predicted / true clicks of the ranker, by bucket of the choice",
        "On the log's own ads in their slots, and over all candidate ads of the next "
        "day in slot 0. Only buckets with at least 200 true clicks.",
        ("order", "all", "ECE", *(f"seen {bucket}" for bucket in BUCKETS)),
        tuple(rows),
    )


def _metrics(metrics: Branch) -> Table:
    rows = [
        (
            name,
            f"{one['rank_correlation']:.3f}",
            f"{one['worst']:.3f}",
            f"{100 * one['bias']:+.2f}",
            f"{one['policies']:.0f}",
        )
        for name, one in metrics.items()
    ]
    return Table(
        "Which logged metric orders policies as the truth does",
        "Spearman's rank correlation with true CTR over the policies and variants "
        "above, mean and worst of the seeds; bias in points of CTR.",
        ("metric", "rank correlation", "worst seed", "bias", "policies"),
        tuple(rows),
    )


def coverage_table(coverage: Branch) -> Table:
    """Return how often off-policy intervals held the truth."""
    rows = []
    for logging, one in coverage.items():
        for name in ("ips", "snips", "dr"):
            if name in one:
                held = one[name]
                rows.append(
                    (
                        logging,
                        name,
                        f"{100 * held['covered']:.1f} % "
                        f"[{100 * held['low']:.1f}, {100 * held['high']:.1f}]",
                        f"{100 * held['bias']:+.3f}",
                        f"{100 * held['width']:.2f}",
                        f"{100 * one['refused']:.0f} %",
                        "",
                    )
                )
        if one["refused"]:
            share = f"{100 * one['refused']:.0f} %"
            reason = str(one["reason"])
            rows.append((logging, "refused", _NONE, _NONE, _NONE, share, reason))
    runs = next(iter(coverage.values()))["runs"]
    return Table(
        "Off-policy estimates: how often the 95 % interval holds the truth",
        f"{runs} logs of 20,000 impressions by logging policy.",
        ("logging", "estimator", "covered", "bias", "width", "refused", "why"),
        tuple(rows),
    )


def _says(name: str) -> str:
    known = {**VARIANTS, **WEIGHTED}
    return f"{name}: {known[name].says}" if name in known else name


def interval_text(
    one: Branch | None, digits: int, factor: float, *, sign: bool = False
) -> str:
    """Return a value with its interval as people read it; a dash for none."""
    if one is None or one["value"] is None:
        return _NONE
    style = "+" if sign else ""
    text = f"{factor * one['value']:{style},.{digits}f}"
    if one["low"] is None or one["high"] is None:
        return text
    ends = (f"{factor * one[end]:,.{digits}f}" for end in ("low", "high"))
    return f"{text} [{', '.join(ends)}]"


def markdown(table: Table) -> str:
    """Return a table as Markdown."""
    lines = [f"**{table.title}.** {table.note}", ""]
    lines.append("| " + " | ".join(table.header) + " |")
    lines.append("|" + " --- |" * len(table.header))
    lines += ["| " + " | ".join(row) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"
