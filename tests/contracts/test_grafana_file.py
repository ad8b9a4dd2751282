"""The dashboard asks for figures that the service has, by labels that they have."""

import json
import re

import pytest
from prometheus_client.metrics import MetricWrapperBase

from serve.metrics import LogCounts, Metrics
from serve.metrics_board import LABEL
from tests.contracts.sources import ROOT

DASHBOARD = json.loads((ROOT / "serve" / "grafana_dashboard.json").read_text())
SUFFIXES = {
    "counter": ("_total", "_created"),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
}
ADDED = {"job", "instance", "le", LABEL}
"""Labels that Prometheus itself gives, and the one that parts gateways."""

NAME = re.compile(r"\bcacs_\w+")
MATCHERS = re.compile(r"\{([^{}]*)\}")
GROUPING = re.compile(r"\b(?:by|without)\s*\(([^()]*)\)")


def labels_by_series():
    """Return the labels of every series that a gateway can have."""
    found = {}
    metrics = Metrics()
    logs = [one for one in vars(metrics).values() if isinstance(one, LogCounts)]
    counts = [getattr(log, name) for log in logs for name in log.__slots__]
    for metric in [*vars(metrics).values(), *counts]:
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            for suffix in SUFFIXES[family.type]:
                found[family.name + suffix] = set(metric._labelnames)
    return found


def expressions():
    return [
        (panel["title"], target["expr"])
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ]


def unknown_names(expression, known):
    return set(NAME.findall(expression)) - set(known)


def unknown_labels(expression, known):
    names = NAME.findall(expression)
    allowed = set().union(ADDED, *(known[name] for name in names))
    used = {one.strip() for by in GROUPING.findall(expression) for one in by.split(",")}
    for matchers in MATCHERS.findall(expression):
        used |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
    return used - allowed


@pytest.mark.parametrize(("title", "expression"), expressions())
def test_it_asks_for_series_and_labels_that_exist(title, expression):
    known = labels_by_series()
    assert NAME.findall(expression)
    assert unknown_names(expression, known) == set()
    assert unknown_labels(expression, known) == set()
    assert expression.count("(") == expression.count(")")


@pytest.mark.parametrize(
    ("broken", "names", "labels"),
    [
        ("rate(cacs_requests[5m])", {"cacs_requests"}, None),
        ("sum by (code) (cacs_requests_total)", set(), {"code"}),
        ('cacs_stage_seconds_bucket{step="total"}', set(), {"step"}),
    ],
)
def test_a_wrong_name_would_be_seen(broken, names, labels):
    known = labels_by_series()
    assert unknown_names(broken, known) == names
    if labels:
        assert unknown_labels(broken, known) == labels


def test_counters_are_asked_for_their_rate_and_gauges_are_not():
    for _, expression in expressions():
        for name in NAME.findall(expression):
            is_counter = name.endswith(("_total", "_bucket", "_sum", "_count"))
            is_rate = f"rate({name}" in expression or f"increase({name}" in expression
            assert is_rate == is_counter


def test_what_an_operator_needs_is_on_it():
    asked = " ".join(expression for _, expression in expressions())
    for quantile in ("0.5", "0.95", "0.99"):
        assert f"histogram_quantile({quantile}," in asked
    for need in (
        "by (status)",
        "by (le, stage)",
        "by (reason)",
        "by (release)",
        "cacs_decisions_logged_total",
        "cacs_decisions_dropped_total",
        "cacs_decisions_waiting",
    ):
        assert need in asked


def test_panels_have_numbers_and_places_of_their_own():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert all(0 <= x < 24 for x, _ in cells)
        taken |= cells
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
    (source,) = [
        one for one in DASHBOARD["templating"]["list"] if one["name"] == "datasource"
    ]
    assert source["query"] == "prometheus"
