"""What MLflow's page of runs opens with: columns, order, charts.

Left to itself the page shows no figure and hides the children of a run. Its own
button "share view" keeps what one sees as a tag of the experiment; we write that tag.
The format is MLflow's own and undocumented (read in 3.17.2): a page that does not
understand it shows its default, and everything stays where it is.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

VIEW_TAG: Final = "mlflow.sharedViewState."
"""Followed by the view's key, a tag of the experiment."""

RUN: Final = "{run}"
"""Stands for MLflow's id of the run that a view belongs to."""

LINK: Final = "{view}"
"""Stands in a note for the address of the view."""

ML_MODE: Final = "workflowType=machine_learning"
"""Part of every link: without it MLflow opens in a mode that hides models."""

View = dict[str, Any]

_HEIGHT: Final = 360
"""Pixels of a chart."""
_WIDTH: Final = 165
"""Pixels of a column, for its whole name."""
_LEFT: Final = {"attributes.`Run Name`": 330, "runDateAndNestInfo": 150}
"""Pixels of the two columns that stand still at the left: a run's whole name, and
when it was made. MLflow's own widths cut the name."""


def table_view(metrics: Sequence[str], params: Sequence[str] = ()) -> View:
    """Return a table of the experiment's runs, latest first, with these columns."""
    return _view(metrics, params)


def trials_view(metrics: Sequence[str], params: Sequence[str]) -> View:
    """Return the trials below a run, best first, with what tells them apart.

    Args:
        metrics: the first one decides, smaller is better; each gets a curve.
        params: axes of the parallel coordinates.
    """
    view = _view(metrics, params) | {
        "searchFilter": f"tags.mlflow.parentRunId = '{RUN}' and tags.stage = 'trial'",
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": True,
        # The page adds charts of its own for every other metric, below these.
        "isAccordionReordered": True,
    }
    parallel = {
        "type": "PARALLEL",
        "selectedParams": list(params),
        "selectedMetrics": [metrics[0]],
        "showAllRuns": True,
    }
    curves = [{"type": "LINE", "metricKey": name, **_STEPS} for name in metrics]
    # As many axes as parameters need the whole width.
    sections = [("Trials", 1, [parallel]), ("Curves", 2, curves)]
    view["compareRunSections"] = [
        {
            "uuid": name,
            "name": name,
            "display": True,
            "isReordered": False,
            "columns": columns,
            "cardHeight": _HEIGHT,
        }
        for name, columns, _ in sections
    ]
    view["compareRunCharts"] = [
        {
            "uuid": f"{name}-{number}",
            "runsCountToCompare": 100,
            "metricSectionId": name,
            "deleted": False,
            "isGenerated": False,
            **chart,
        }
        for name, _, charts in sections
        for number, chart in enumerate(charts)
    ]
    return view


def packed(view: str) -> str:
    """Return a view, given as JSON, as MLflow keeps it."""
    return "deflate;" + base64.b64encode(zlib.compress(view.encode(), 9)).decode()


def view_link(experiment_id: str, key: str, view: Mapping[str, Any]) -> str:
    """Return the address of a view within MLflow, in chart mode if it has charts."""
    mode = "&compareRunsMode=CHART" if view.get("compareRunCharts") else ""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={key}&{ML_MODE}{mode}"


def spaced(markdown: str) -> str:
    """Set the columns of tables apart, which MLflow shows without any space."""
    lines = markdown.split("\n")
    return "\n".join(
        line.replace(" | ", f"{_GAP} | ") if line.startswith("| ") else line
        for line in lines
    )


_GAP: Final = "\N{NO-BREAK SPACE}" * 3

_STEPS: Final[View] = {
    "lineSmoothness": 0,
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "xAxisKey": "step",
    "selectedXAxisMetricKey": "",
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "range": {},
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
}


def _view(metrics: Sequence[str], params: Sequence[str]) -> View:
    columns = [f"metrics.`{name}`" for name in metrics]
    columns += [f"params.`{name}`" for name in params]
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": [*_LEFT, *columns],
        "columnWidths": {**_LEFT, **{name: _WIDTH for name in columns}},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOWALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }
