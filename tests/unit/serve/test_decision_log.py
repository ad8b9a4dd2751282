"""What the decision log promises: the contract's rows, each once, whole files."""

import asyncio
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cacs_ray.data import files
from cacs_ray.schema import DECISIONS, Column
from serve.api import DecideRequest
from serve.decision_log import DecisionLog, LogLimits
from serve.metrics import Metrics

BY_HAND = LogLimits(flush_s=3600)
"""Nothing is written before the log is told to."""


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def make_log(tmp_path, metrics):
    logs = []

    def make(limits=BY_HAND, directory=tmp_path / "log"):
        logs.append(DecisionLog(directory, metrics, limits))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


def send(service, page_view, *request_ids):
    async def ask():
        for request_id in request_ids:
            request = page_view | {"request_id": request_id}
            await service.gateway.decide(DecideRequest.model_validate(request))

    asyncio.run(ask())


@pytest.fixture
def page_view(page_view):
    from datetime import UTC, datetime

    return page_view | {"request_ts": datetime(2026, 1, 2, tzinfo=UTC)}


def kept(directory) -> pa.Table:
    tables = [pq.read_table(file) for file in sorted(directory.glob("*.parquet"))]
    return pa.concat_tables(tables)


def counted(metrics, name) -> float:
    return metrics.registry.get_sample_value(name)


def test_every_candidate_is_logged_exactly_once_in_the_contracts_schema(
    make_service, make_log, page_view, tmp_path
):
    log = make_log()
    service = make_service(log=log, num_slots=1)
    send(service, page_view, "q1", "q2", "q3")
    log.close()

    table = kept(tmp_path / "log")

    assert table.schema.names[: len(DECISIONS)] == DECISIONS.names
    for field in DECISIONS:
        assert table.schema.field(field.name).type == field.type
    assert sorted(
        zip(
            table[Column.REQUEST_ID].to_pylist(),
            table[Column.AD_ID].to_pylist(),
            strict=True,
        )
    ) == [(q, ad) for q in ("q1", "q2", "q3") for ad in ("hat", "shoe")]
    # One slot: the other ad of each request is logged without one.
    assert table[Column.SLOT].null_count == 3
    assert table[Column.PRICE_MICROS].null_count == 3
    assert set(table[Column.RELEASE].to_pylist()) == {"r1"}


def test_declared_request_columns_follow_as_they_were_seen(
    make_service, make_log, page_view, tmp_path
):
    log = make_log()
    send(make_service(log=log), page_view, "q1")
    log.close()

    table = kept(tmp_path / "log")

    assert table["device"].to_pylist() == ["phone", "phone"]
    assert table["hour"].to_pylist() == [7.0, 7.0]
    assert table.schema.field("taste").type == pa.list_(pa.float32())
    assert table["taste"].null_count == 2


def test_a_fallback_is_logged_with_its_reason(
    make_service, make_log, page_view, tmp_path
):
    log = make_log()
    service = make_service(log=log)
    service.selector.error = RuntimeError("down")
    send(service, page_view, "q1")
    log.close()

    table = kept(tmp_path / "log")

    assert table[Column.IS_FALLBACK].to_pylist() == [True, True]
    assert set(table[Column.FALLBACK_REASON].to_pylist()) == {"selector_failed"}


def test_health_checks_are_not_decisions(make_service, make_log, tmp_path):
    log = make_log()
    service = make_service(log=log)
    assert asyncio.run(service.gateway.health()) is None
    log.close()
    assert not list((tmp_path / "log").iterdir())


def test_a_full_buffer_drops_whole_requests_and_counts_them(
    make_service, make_log, page_view, tmp_path, metrics
):
    log = make_log(LogLimits(flush_s=3600, max_rows=5))
    service = make_service(log=log, metrics=metrics)
    send(service, page_view, "q1", "q2", "q3")
    log.close()

    # Two rows a request: the third does not fit into five.
    assert kept(tmp_path / "log").num_rows == 4
    assert counted(metrics, "cacs_decisions_logged_total") == 4
    assert counted(metrics, "cacs_decisions_dropped_total") == 2
    assert counted(metrics, "cacs_decisions_total") == 4 + 2


def test_what_waits_is_bounded_in_bytes_too(
    make_service, make_log, page_view, tmp_path, metrics
):
    """A request's own columns stand in every one of its rows."""
    log = make_log(LogLimits(flush_s=3600, max_bytes=5_000))
    service = make_service(log=log, metrics=metrics)
    send(service, page_view, "q1")
    page_view["features"]["device"] = "x" * 4_000
    send(service, page_view, "q2")
    page_view["features"]["device"] = "phone"
    send(service, page_view, "q3")
    log.flush()
    send(service, page_view, "q4")
    log.close()

    assert kept(tmp_path / "log")["request_id"].to_pylist() == [
        *("q1", "q1", "q3", "q3", "q4", "q4"),
    ]
    assert counted(metrics, "cacs_decisions_dropped_total") == 2
    assert counted(metrics, "cacs_decisions_waiting") == 0


def test_after_closing_nothing_is_taken_silently(
    make_service, make_log, page_view, metrics
):
    log = make_log()
    log.close()
    send(make_service(log=log), page_view, "q1")
    assert counted(metrics, "cacs_decisions_dropped_total") == 2


def test_enough_rows_are_written_without_being_asked(
    make_service, make_log, page_view, tmp_path, monkeypatch
):
    import threading

    written = threading.Event()
    write = files.write_table
    monkeypatch.setattr(
        "serve.decision_log.write_table",
        lambda path, table: (write(path, table), written.set()),
    )
    log = make_log(LogLimits(flush_s=3600, flush_rows=4))
    send(make_service(log=log), page_view, "q1", "q2")
    assert written.wait(timeout=10)


def test_a_write_that_fails_leaves_no_file_and_is_tried_again(
    make_service, make_log, page_view, tmp_path, metrics, monkeypatch
):
    log = make_log()
    send(make_service(log=log), page_view, "q1")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(files.os, "replace", full)
        log.flush()
    assert not list((tmp_path / "log").iterdir())
    assert counted(metrics, "cacs_decisions_waiting") == 2

    log.flush()
    assert kept(tmp_path / "log").num_rows == 2
    assert counted(metrics, "cacs_decisions_waiting") == 0


def test_rows_that_fit_no_table_are_counted_and_do_not_stop_the_log(
    make_service, make_log, page_view, tmp_path, metrics, monkeypatch
):
    log = make_log()
    service = make_service(log=log)
    send(service, page_view, "q1")

    def misfit(*_):
        raise pa.ArrowInvalid("type")

    with monkeypatch.context() as broken:
        broken.setattr("serve.decision_log.write_table", misfit)
        log.flush()
    assert counted(metrics, "cacs_decisions_dropped_total") == 2

    send(service, page_view, "q2")
    log.flush()
    assert kept(tmp_path / "log").num_rows == 2


def test_two_logs_in_one_directory_do_not_replace_each_others_files(
    make_service, make_log, page_view, tmp_path
):
    for request_id in ("q1", "q2"):
        log = make_log()
        send(make_service(log=log), page_view, request_id)
        log.close()
    assert kept(tmp_path / "log").num_rows == 4


@dataclass(frozen=True)
class SomeRows:
    """Rows of a table that is given, or that fails to be made."""

    made: pa.Table | Exception

    def __len__(self):
        return 1

    def table(self):
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


def test_releases_whose_columns_differ_in_kind_are_logged_side_by_side(
    make_log, metrics, tmp_path
):
    log = make_log()
    for hour in (["seven"], [7.0], ["eight"]):
        log.append(SomeRows(pa.table({"ad_id": ["hat"], "hour": hour})))
    log.close()

    written = [pq.read_table(file) for file in (tmp_path / "log").glob("*.parquet")]
    hours = [table["hour"].to_pylist() for table in written]
    assert sorted(hours, key=len) == [[7.0], ["seven", "eight"]]
    assert counted(metrics, "cacs_decisions_logged_total") == 3
    assert counted(metrics, "cacs_decisions_dropped_total") == 0


def test_one_file_that_is_not_written_waits_alone(
    make_log, metrics, tmp_path, monkeypatch
):
    log = make_log()
    log.append(SomeRows(pa.table({"hour": ["seven"]})))
    log.append(SomeRows(pa.table({"hour": [7.0]})))
    write = files.write_table

    def write_numbers(path, table):
        if table.schema.field("hour").type == pa.string():
            raise OSError(28, "No space left on device")
        write(path, table)

    with monkeypatch.context() as broken:
        broken.setattr("serve.decision_log.write_table", write_numbers)
        log.flush()
    assert counted(metrics, "cacs_decisions_waiting") == 1

    log.flush()
    assert counted(metrics, "cacs_decisions_logged_total") == 2
    assert len(list((tmp_path / "log").glob("*.parquet"))) == 2


def test_rows_that_make_no_table_take_no_others_along(make_log, metrics, tmp_path):
    log = make_log()
    log.append(SomeRows(ValueError("a bug")))
    log.append(SomeRows(pa.table({"ad_id": ["hat"]})))
    log.close()

    assert kept(tmp_path / "log").num_rows == 1
    assert counted(metrics, "cacs_decisions_dropped_total") == 1
    assert counted(metrics, "cacs_decisions_waiting") == 0
