"""What the page of a report promises."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest

from cacs_ray.evaluation import figures
from cacs_ray.evaluation.gate import judge
from cacs_ray.evaluation.offline import EvaluationSettings, evaluate
from cacs_ray.evaluation.report import plain_report, render_report, write_report
from tests.unit.evaluation.logs import hats_and_shoes, simulated

ONE = {"value": 0.05, "low": 0.04, "high": 0.06}
SCRIPT = "<script>alert(1)</script>"


def rows(rejected=0, **samples):
    return {
        "read": 10,
        "accepted": 10 - rejected,
        "rejected": rejected,
        "rejected_by_rule": {rule: rejected for rule in samples},
        "samples": samples,
    }


@pytest.fixture(scope="module")
def offline():
    return evaluate(simulated(0)[0], EvaluationSettings(replicates=100))


@pytest.fixture(scope="module")
def whole(offline):
    """A report with every section."""
    comparison = {
        "off_policy": {
            "status": "ok",
            "reason": None,
            "effective_sample_size": 9.0,
            "unsupported_share": 0.0,
            "estimates": {name: ONE for name in ("ips", "snips", "dr")},
        },
        "on_policy": ONE,
    }
    refused = {
        "off_policy": {
            **comparison["off_policy"],
            "status": "refused",
            "reason": "thin support: few clicks",
            "estimates": {},
        },
        "on_policy": ONE,
    }
    return {
        **offline,
        "dataset": "market",
        "bundle_id": "b-1",
        "windows": {
            "train_start_us": 0,
            "train_end_us": 86_400_000_000,
            "validation_end_us": 2 * 86_400_000_000,
            "test_end_us": 3 * 86_400_000_000,
        },
        "data": {
            "rows": rows(1, bad_slot=[{"slot": "-1", "note": SCRIPT, "x": None}]),
            "entities": {"creatives": rows()},
            "first_ts_us": 0,
            "last_ts_us": None,
        },
        "stages": {"teacher": {"seconds": 1.5, "steps": 3}},
        "curves": {"teacher": [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]},
        "truth": {
            "next_day": {
                "cacs": {"true_ctr": ONE, "rpm_micros": ONE, "impressions": 7}
            },
            "choice_gain": {"cacs": {"all": ONE, "rare": ONE, "frequent": ONE}},
        },
        "off_policy": {"bts": comparison, "thin": refused},
        "gate": judge(plain_report(offline)),
    }


@pytest.fixture(scope="module")
def text(whole):
    """The page of the whole report."""
    return render_report(whole)


@pytest.fixture
def _without_drawing(monkeypatch):
    """Plots cost more time than all the rest of a page."""
    monkeypatch.setattr(figures, "_svg", lambda _: "<svg></svg>")


class Page(HTMLParser):
    """Collects headings, addresses and unclosed tags of a page."""

    VOID = ("meta", "path", "use", "rect", "circle", "line", "br")

    def __init__(self, text):
        super().__init__()
        self.headings, self.addresses, self.open = [], [], []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data.strip())


def test_a_whole_report_shows_every_section(text):
    page = Page(text)
    assert page.open == []
    assert page.headings == [
        "Policies",
        "By how often the chosen creative had been shown",
        "Truth of the simulated market",
        "Ranker",
        "Student and teacher",
        "Valued from another policy's log",
        "Gate:",
        "Training",
        "Data",
        "Stages",
        "How to read it",
    ]


def test_the_page_needs_nothing_from_outside(text):
    page = Page(text)
    assert page.scripts == 0
    assert all(address.startswith("#") for address in page.addresses)


def test_text_from_a_log_is_shown_not_run(text):
    assert SCRIPT not in text
    assert "&lt;script&gt;" in text


@pytest.mark.usefixtures("_without_drawing")
@pytest.mark.parametrize(
    "missing",
    [
        "policies",
        "ranker",
        "agreement",
        "truth",
        "off_policy",
        "gate",
        "curves",
        "data",
        "stages",
        "windows",
        "dataset",
        "bundle_id",
    ],
)
def test_any_section_may_be_absent(whole, missing):
    others = {name: one for name, one in whole.items() if name != missing}
    assert "How to read it" in render_report(others)


def test_an_empty_report_is_a_page():
    assert Page(render_report({})).headings == ["How to read it"]


def test_figures_that_do_not_exist_are_dashes_not_errors():
    log = hats_and_shoes(shown_index=np.zeros(8, int), pctr=None, teacher_scores=None)
    report = evaluate(log, EvaluationSettings(replicates=100))
    page = render_report(report)
    assert ">nan" not in page.lower()


def test_equal_reports_give_equal_pages(whole, text):
    assert render_report(whole) == text


def test_a_plain_report_is_json_and_reads_back_equal(whole):
    plain = plain_report(whole | {"nothing": float("nan"), "many": np.arange(2)})
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["nothing"] is None
    assert plain["many"] == [0, 1]


def test_the_page_is_written_whole(tmp_path, whole, text):
    path = tmp_path / "report.html"
    write_report(whole, path)
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]
