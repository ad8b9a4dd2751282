"""What structured logs promise: one line of JSON each, with the request's id."""

import json
import logging

import pytest

from serve.records import ACCESS, JsonLines, configure_records, trace_id


@pytest.fixture
def lines(capsys, kept_loggers):
    def read():
        return [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    return read


def test_every_decided_request_has_a_record_with_its_id(make_service, page_view, lines):
    configure_records(has_access=True)
    service = make_service()
    service.selector.error = RuntimeError("down")

    answer = service.send(page_view, headers={"x-request-id": "trace-7"})

    assert answer.headers["x-request-id"] == "trace-7"
    failed, access = lines()
    assert (failed["logger"], failed["level"]) == ("serve.ladder", "warning")
    assert failed["trace_id"] == access["trace_id"] == "trace-7"
    assert access["request_id"] == "q1"
    assert access["fallback_reason"] == "selector_failed"
    assert access["ms"]["total"] >= 0


def test_without_being_asked_for_there_are_none(make_service, page_view, lines):
    configure_records()
    make_service().send(page_view)
    assert lines() == []


@pytest.mark.parametrize("sent", ["a b", "x" * 65, "é", '"'])
def test_an_id_that_is_not_plain_is_replaced(make_service, page_view, sent):
    headers = {"x-request-id": sent.encode()}
    named = make_service().send(page_view, headers=headers).headers["x-request-id"]
    assert len(named) == 32
    assert named != sent


def test_a_record_is_one_line_whatever_is_in_it():
    record = ACCESS.makeRecord(
        "serve", logging.WARNING, "f", 1, "two\nlines %s", ("\ud800",), None
    )
    token = trace_id.set("r")
    try:
        line = JsonLines().format(record)
    finally:
        trace_id.reset(token)
    assert "\n" not in line
    assert json.loads(line)["message"] == "two\nlines \ud800"
