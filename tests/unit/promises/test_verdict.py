"""A promise is shown only when its negative control is caught."""

import json
from dataclasses import replace

import pytest

from cacs_ray.promises.report import markdown, page, write_report
from cacs_ray.promises.verdict import Outcome, Verdict, lines


def verdict(*, is_kept, check="load"):
    return Verdict(check, 10, 0 if is_kept else 2, "p99 3 ms", "0 failed", is_kept)


def outcome(kept=(True,), control=(False,)):
    return Outcome(
        "load held",
        "60/s",
        tuple(verdict(is_kept=one) for one in kept),
        tuple(verdict(is_kept=one, check="control") for one in control),
        "a proxy <b>",
    )


@pytest.mark.parametrize(
    ("kept", "control", "is_kept", "is_shown"),
    [
        ((True, True), (False,), True, True),
        ((True, False), (False,), False, False),
        ((True,), (True,), True, False),
        ((True,), (True, False), True, True),
        ((True,), (), True, False),
        ((), (False,), False, False),
    ],
)
def test_what_is_kept_and_what_is_shown(kept, control, is_kept, is_shown):
    one = outcome(kept, control)
    assert (one.is_kept, one.is_shown) == (is_kept, is_shown)


@pytest.mark.parametrize(
    ("control", "is_caught"),
    [((False, False), True), ((False, True), False), ((), False)],
)
def test_faults_of_different_kinds_must_each_be_found(control, is_caught):
    one = replace(outcome(control=control), is_each_found=True)
    assert one.is_control_caught == is_caught


def test_lines_say_failed_of_asked_and_whether_the_control_was_caught():
    said = "\n".join(lines(outcome()))
    assert "failed 0 / asked 10" in said
    assert "failed 2 / asked 10" in said
    assert "caught" in said
    assert "NOT CAUGHT" in "\n".join(lines(outcome(control=(True,))))
    assert "BROKEN" in "\n".join(lines(outcome(kept=(False,))))


def test_the_reports_agree_and_escape(tmp_path):
    write_report(tmp_path, [outcome()], {"cores": 2}, 0.05)
    kept = json.loads((tmp_path / "promises.json").read_text())
    assert kept["outcomes"][0]["is_control_caught"] is True
    assert kept["scale"] == 0.05
    table = markdown([outcome()], {"cores": 2}, 0.05)
    assert table.count("load held |") == 2
    assert "a proxy <b>" not in page([outcome()], {"cores": 2}, 0.05)
