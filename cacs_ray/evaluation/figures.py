"""The plots of a report, as SVG text that stands inside the page.

Each function takes plain report branches and returns one `<svg>` element. Nothing
is fetched, and equal reports give equal text.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Branch = Mapping[str, Any]
Interval = Mapping[str, float | None]

COLOURS: Final = {
    "logged": "#9aa3ad",
    "random": "#9aa3ad",
    "popular": "#c98b2b",
    "thompson": "#8b6bb1",
    "post_rank": "#5b9b6c",
    "parallel": "#3f8f9e",
    "cacs": "#1f5fa8",
    "teacher": "#b0413e",
}
_OTHER: Final = "#4a5560"
_MOST_COLUMNS: Final = 4
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b8c0c8",
    "axes.labelcolor": "#3b444d",
    "xtick.color": "#3b444d",
    "ytick.color": "#3b444d",
    "axes.grid": True,
    "grid.color": "#e7ebee",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def forest_plot(rows: Sequence[tuple[str, Interval]], label: str) -> str:
    """Draw one interval per row, the first row on top; 0 is marked.

    Rows without a value are left out; a value without an interval is a dot.
    """
    drawn = [(name, one) for name, one in rows if one["value"] is not None]
    with mpl.rc_context({**_STYLE, "svg.hashsalt": label}):
        figure, axes = _canvas(7.2, 0.9 + 0.38 * max(1, len(drawn)))
        for place, (name, one) in enumerate(drawn):
            _draw_interval(axes, one, place, COLOURS.get(name, _OTHER))
        axes.axvline(0, color="#6b7680", linewidth=0.9, linestyle="--")
        axes.set_yticks(range(len(drawn)), [name for name, _ in drawn])
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)
        return _svg(figure)


def bucket_plot(
    by_policy: Mapping[str, Branch],
    buckets: Sequence[str],
    label: str,
    colours: Mapping[str, str] = COLOURS,
) -> str:
    """Draw intervals per bucket, the policies of a bucket side by side.

    Args:
        by_policy: policy -> bucket -> interval; a missing bucket is left out.
        buckets: from left to right.
        label: of the vertical axis.
        colours: of the policies.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": label}):
        figure, axes = _canvas(7.2, 3.1)
        step = 0.7 / max(1, len(by_policy))
        for number, (policy, branch) in enumerate(by_policy.items()):
            offset = (number - (len(by_policy) - 1) / 2) * step
            colour, is_named = colours.get(policy, _OTHER), False
            for place, bucket in enumerate(buckets):
                one = branch.get(bucket)
                if one is None or one["value"] is None:
                    continue
                name = None if is_named else policy
                is_named = True
                _draw_interval(
                    axes, one, place + offset, colour, name=name, upright=True
                )
        axes.axhline(0, color="#6b7680", linewidth=0.9, linestyle="--")
        _keep_values_readable(axes, by_policy)
        axes.set_xticks(range(len(buckets)), buckets)
        axes.set_xlim(-0.5, len(buckets) - 0.5)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("impressions of the chosen creative when training ended")
        axes.set_ylabel(label)
        if axes.get_legend_handles_labels()[0]:
            columns = min(_MOST_COLUMNS, len(by_policy))
            axes.legend(ncols=columns, loc="lower left", bbox_to_anchor=(0, 1))
        return _svg(figure)


def calibration_plot(ranker: Branch) -> str:
    """Draw observed against predicted CTR in bins of equal mass, in percent."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "calibration"}):
        figure, axes = _canvas(4.6, 4.1)
        highest = 0.0
        for name, colour in (("all", "#4a5560"), ("chosen", "#1f5fa8")):
            bins = ranker[name]["calibration"]["bins"]
            predicted = [100 * value for value in bins["predicted"]]
            observed = [100 * value for value in bins["observed"]]
            highest = max([highest, *predicted, *observed])
            axes.plot(
                predicted,
                observed,
                marker="o",
                markersize=4,
                linewidth=1.2,
                color=colour,
                label=f"{name} impressions",
            )
        axes.plot([0, highest], [0, highest], color="#9aa3ad", linestyle="--")
        axes.set_xlabel("predicted CTR, %")
        axes.set_ylabel("observed CTR, %")
        axes.legend(loc="upper left")
        return _svg(figure)


def curves_plot(stage: str, records: Sequence[Branch]) -> str:
    """Draw what a training stage reported over its steps, a panel for each quantity.

    Single batches are pale; means over an epoch are dots, of training rows and, to
    compare with, of validation rows.
    """
    names = _quantities(records)
    columns, rows = 3, -(-len(names) // 3) or 1
    with mpl.rc_context({**_STYLE, "font.size": 8, "svg.hashsalt": stage}):
        figure = Figure(figsize=(3.2 * columns, 2.1 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            _draw_quantity(axes, name, records)
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3)
        return _svg(figure)


def sequence_plot(curve: Branch, label: str, scale: float = 1.0) -> str:
    """Draw a difference over the looks of a test with its interval; 0 is marked.

    Args:
        curve: lists `ts_us`, `difference`, `low`, `high`; nulls are left out.
        label: of the vertical axis.
        scale: values are multiplied with it.
    """
    times = np.array(curve["ts_us"], "datetime64[us]")
    value, low, high = (
        np.array([np.nan if v is None else v for v in curve[name]], float) * scale
        for name in ("difference", "low", "high")
    )
    is_known = np.isfinite(low) & np.isfinite(high)
    style = {**_STYLE, "svg.hashsalt": label, "date.converter": "concise"}
    with mpl.rc_context(style):
        figure, axes = _canvas(7.2, 2.6)
        blue = COLOURS["cacs"]
        axes.fill_between(
            times, low, high, where=is_known.tolist(), color=blue, alpha=0.16, lw=0
        )
        known = np.where(is_known, value, np.nan)
        marker = "o" if is_known.sum() < 40 else ""
        axes.plot(times, known, color=blue, lw=1.6, marker=marker, markersize=3)
        axes.axhline(0, color="#6b7680", linewidth=0.9, linestyle="--")
        axes.set_ylabel(label)
        return _svg(figure)


def lines_plot(
    curves: Mapping[str, Sequence[Interval]],
    places: Sequence[int],
    label: str,
    colours: Mapping[str, str] = COLOURS,
    scale: float = 1.0,
) -> str:
    """Draw one line per name over days, with its intervals as a band; 0 is marked.

    Args:
        curves: name -> one interval per place; values that are None are left out.
        places: days, rising.
        label: of the vertical axis.
        colours: of the names.
        scale: values are multiplied with it.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": label}):
        figure, axes = _canvas(7.2, 3.4)
        for name, points in curves.items():
            value, low, high = (
                np.array([np.nan if p[k] is None else p[k] for p in points], float)
                for k in ("value", "low", "high")
            )
            colour = colours.get(name, _OTHER)
            axes.fill_between(
                places, scale * low, scale * high, color=colour, alpha=0.1, lw=0
            )
            axes.plot(places, scale * value, color=colour, marker="o", ms=3, label=name)
        axes.axhline(0, color="#6b7680", linewidth=0.9, linestyle="--")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("day after the log")
        axes.set_ylabel(label)
        axes.legend(ncols=_MOST_COLUMNS, loc="lower left", bbox_to_anchor=(0, 1))
        return _svg(figure)


def _quantities(records: Sequence[Branch]) -> list[str]:
    """Return what was reported as `train/` or `validation/`; a lone part is its sum."""
    names = {
        name.partition("/")[2]
        for one in records
        for name in one
        if name.startswith(("train/", "validation/"))
    }
    if len(names) == 2:
        names.discard("loss")
    return sorted(names)[:12]


def _draw_quantity(axes: Axes, name: str, records: Sequence[Branch]) -> None:
    """Draw the batches, epochs and validations of one quantity."""
    by_epoch = [one for one in records if "rows_per_second" in one]
    by_batch = [one for one in records if "rows_per_second" not in one]
    for chosen, key, label, colour, marker in (
        (by_batch, f"train/{name}", "training, batch", "#c3cfdb", ""),
        (by_epoch, f"train/{name}", "training, epoch", "#1f5fa8", "o"),
        (by_epoch, f"validation/{name}", "validation, epoch", "#b0413e", "o"),
    ):
        known = [(r["step"], r[key]) for r in chosen if r.get(key) is not None]
        if known:
            steps, values = zip(*known, strict=True)
            axes.plot(
                *(steps, values),
                color=colour,
                linewidth=1.2,
                marker=marker,
                markersize=3.5,
                label=label,
            )
    axes.set_title(name, loc="left", fontsize=8.5)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _draw_interval(
    axes: Axes,
    one: Interval,
    place: float,
    colour: str,
    *,
    name: str | None = None,
    upright: bool = False,
) -> None:
    low, high = one["low"], one["high"]
    if low is not None and high is not None:
        ends, places = [low, high], [place, place]
        xs, ys = (places, ends) if upright else (ends, places)
        axes.plot(xs, ys, color=colour, linewidth=2, solid_capstyle="round")
    at = (place, one["value"]) if upright else (one["value"], place)
    axes.plot(*at, marker="o", markersize=5, color=colour, label=name, linestyle="")


def _keep_values_readable(axes: Axes, by_policy: Mapping[str, Branch]) -> None:
    """Let the values set the scale: one huge interval must not flatten the rest."""
    parts = [one for branch in by_policy.values() for one in branch.values()]
    values = [one["value"] for one in parts if one["value"] is not None]
    if values:
        reach = 2.5 * max(abs(value) for value in values) + 1
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -reach), min(high, reach))


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    whole = text.getvalue()
    return whole[whole.index("<svg") :]
