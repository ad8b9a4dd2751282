import json

import pytest

from cacs_ray.benchmarks.outcome import (
    Settings,
    alone,
    at_least,
    at_most,
    compared,
    interleave,
)
from cacs_ray.benchmarks.report import END, START, markdown, replace_section
from cacs_ray.errors import InputError


def test_sides_take_turns_and_the_warm_up_does_not_count():
    turns = []

    def side(name):
        return lambda: turns.append(name) or float(len(turns))

    figures = interleave([side("a"), side("b")], repeats=2)

    assert turns == ["a", "b"] * 3
    assert figures == [[3.0, 5.0], [4.0, 6.0]]


def test_the_ratio_is_the_median_of_the_pairs_not_the_ratio_of_the_medians():
    outcome = compared("x", [1, 2, 9], [1, 4, 3], "rows/s", at_least(1.0))

    assert outcome.ratios == (1.0, 0.5, 3.0)
    assert outcome.median == 1.0
    assert outcome.ours / outcome.theirs != outcome.median
    assert outcome.is_met


@pytest.mark.parametrize(
    ("goal", "value", "is_met"),
    [
        (at_least(0.5), 0.5, True),
        (at_least(0.5), 0.49, False),
        (at_most(2.5), 2.5, True),
        (at_most(2.5), 2.51, False),
        (None, 1.0, None),
    ],
)
def test_a_goal_holds_up_to_its_bound(goal, value, is_met):
    assert alone("x", [value], "s", goal).is_met is is_met


def test_pairs_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        compared("x", [1.0, 2.0], [1.0], "s")


def test_the_table_has_a_cell_for_every_heading():
    outcomes = [
        compared("a|b", [1000.0, 2000.0], [500.0, 500.0], "rows/s", at_least(3.0)),
        alone("c", [3.0], "s"),
    ]

    lines = markdown(outcomes, {"cores": 2}).splitlines()

    assert lines[0] == "Machine: cores 2."
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert "a/b | 1,500 | 500 | rows/s | 3 | 2 to 4 | >= 3 | yes" in table[2]
    assert json.dumps([outcome.as_json() for outcome in outcomes])


def test_a_section_is_replaced_and_the_rest_is_kept(tmp_path):
    document = tmp_path / "results.md"
    document.write_text(f"before\n{START}\nold\n{END}\nafter\n")

    replace_section(document, "new")

    assert document.read_text() == f"before\n{START}\nnew\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["", START, END, f"{END}{START}", f"{START}{END}" * 2])
def test_a_document_without_its_markers_is_left_alone(tmp_path, text):
    document = tmp_path / "results.md"
    document.write_text(text)

    with pytest.raises(InputError, match="once each"):
        replace_section(document, "new")

    assert document.read_text() == text


@pytest.mark.parametrize(("rows", "repeats"), [(999, 1), (1000, 0)])
def test_settings_that_measure_nothing_are_refused(tmp_path, rows, repeats):
    with pytest.raises(InputError):
        Settings(tmp_path, rows, repeats)
