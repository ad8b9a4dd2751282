"""Whichever gateway Prometheus meets, it hears of all of them."""

import os
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.metrics import Metrics
from serve.metrics_board import ALIVE_S, MetricsBoard


@pytest.fixture
def gateways(tmp_path):
    """Two gateways that leave their pages when told."""
    boards = []
    for answers in (3, 4):
        metrics = Metrics()
        metrics.requests.labels("200").inc(answers)
        metrics.stage_seconds.labels("total").observe(0.003 * answers)
        metrics.watch_releases(lambda: ("new", ("old", "new")))
        boards.append(MetricsBoard(tmp_path, metrics, every_s=None))
    return boards


def samples(board, name):
    """Return gateway -> the samples of one name, without that label."""
    found = {}
    for family in text_string_to_metric_families(board.page().decode()):
        for sample in family.samples:
            if sample.name == name:
                labels = dict(sample.labels)
                of_one = found.setdefault(labels.pop("gateway"), {})
                of_one[tuple(labels.items())] = sample.value
    return found


def clicks(board):
    """Return how many clicks each gateway counts, ascending."""
    told = samples(board, "cacs_clicks_total")
    return sorted(one[()] for one in told.values())


def test_each_tells_of_both(gateways):
    for board in gateways:
        answered = samples(board, "cacs_requests_total")
        key = (("status", "200"),)
        assert sorted(one[key] for one in answered.values()) == [3.0, 4.0]
        for live in samples(board, "cacs_release").values():
            assert live == {(("release", "old"),): 0.0, (("release", "new"),): 1.0}
        counted = samples(board, "cacs_stage_seconds_bucket").values()
        key = (("le", "0.01"), ("stage", "total"))
        assert sorted(dict(one)[key] for one in counted) == [0.0, 1.0]


def test_a_family_is_told_once(gateways):
    page = gateways[0].page().decode()
    types = dict.fromkeys(
        line.removeprefix("# TYPE ").split()[0]
        for line in page.splitlines()
        if line.startswith("# TYPE")
    )
    assert len(types) == page.count("# TYPE") > 20
    assert "# TYPE cacs_requests_total counter" in page


def test_its_own_figures_are_those_of_now_and_the_others_as_they_were_left(gateways):
    first, second = gateways
    second._metrics.clicks.inc(7)
    assert clicks(second) == [0.0, 7.0]
    assert clicks(first) == [0.0, 0.0]
    second.leave()
    assert clicks(first) == [0.0, 7.0]


def test_one_that_ended_is_told_of_no_longer(gateways, tmp_path):
    first, second = gateways
    second.close()
    assert len(samples(first, "cacs_requests_total")) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_one_that_was_killed_is_forgotten(gateways, tmp_path):
    first, second = gateways
    long_ago = time.time() - ALIVE_S - 1
    os.utime(second._file, (long_ago, long_ago))
    assert len(samples(first, "cacs_requests_total")) == 1
    third = MetricsBoard(tmp_path, Metrics(), every_s=None)
    assert sorted(tmp_path.iterdir()) == sorted([first._file, third._file])


@pytest.mark.parametrize(
    "content", [b'cacs_clicks_total{x="', b"\xff\xfe", b"cacs_clicks_total one\n"]
)
def test_a_torn_page_costs_nobody_the_others(gateways, tmp_path, caplog, content):
    (tmp_path / "torn.prom").write_bytes(content)
    (tmp_path / "directory.prom").mkdir()
    assert clicks(gateways[0]) == [0.0, 0.0]
    assert "torn.prom" in caplog.text
    assert "directory.prom" in caplog.text


def test_one_that_had_nothing_to_do_lives_on(gateways):
    first, second = gateways
    long_ago = time.time() - ALIVE_S - 1
    os.utime(second._file, (long_ago, long_ago))
    second.leave()
    assert len(samples(first, "cacs_requests_total")) == 2


def test_a_disk_that_takes_nothing_does_not_end_the_gateway(
    gateways, monkeypatch, caplog
):
    def full(path, content):
        raise OSError("no space left")

    monkeypatch.setattr("serve.metrics_board.write_bytes", full)
    first = gateways[0]
    for _ in range(3):
        first._metrics.clicks.inc()
        first.leave()
    assert caplog.text.count("no space left") == 1
    assert clicks(first) == [0.0, 3.0]


def test_pages_are_left_as_time_goes_by(tmp_path):
    metrics = Metrics()
    board = MetricsBoard(tmp_path, metrics, every_s=0.001)
    other = MetricsBoard(tmp_path, Metrics(), every_s=None)
    metrics.clicks.inc(5)
    ends = time.monotonic() + 20
    while clicks(other) != [0.0, 5.0]:
        assert time.monotonic() < ends, "nothing was left"
    board.close()
    assert not board._file.exists()
