"""What a directory was made from, and what is said when it is to be another."""

import pytest

from cacs_ray.errors import InputError
from cacs_ray.study.kept import claim, refuse_other

MADE_FROM = {"cycle": {"loop": {"epochs": 2, "seed": 0}}}


def other(**loop):
    return {"cycle": {"loop": MADE_FROM["cycle"]["loop"] | loop}}


def test_what_nobody_has_claimed_is_not_refused_nor_claimed(tmp_path):
    refuse_other(tmp_path / "unit.json", MADE_FROM, "out")
    assert list(tmp_path.iterdir()) == []


def test_what_was_claimed_alike_may_go_on(tmp_path):
    claim(tmp_path / "unit.json", MADE_FROM, "out")
    claim(tmp_path / "unit.json", MADE_FROM, "out")
    refuse_other(tmp_path / "unit.json", MADE_FROM, "out")


@pytest.mark.parametrize("ask", [claim, refuse_other])
def test_another_claim_is_refused_with_both_values(tmp_path, ask):
    file = tmp_path / "unit.json"
    claim(file, MADE_FROM, "out")
    before = file.read_bytes()
    with pytest.raises(
        InputError, match=r"cycle\.loop\.epochs was 2, now 1\)"
    ) as caught:
        ask(file, other(epochs=1), "out")
    assert (caught.value.source, caught.value.rule) == ("out", "same_study")
    assert file.read_bytes() == before


def test_of_many_fields_some_are_named_and_the_others_counted(tmp_path):
    claim(tmp_path / "unit.json", MADE_FROM, "out")
    changes = other(epochs=1, seed=1, dim=8, rate=0.5, depth=2)
    with pytest.raises(InputError, match="dim was not there, now 8 and 2 more"):
        refuse_other(tmp_path / "unit.json", changes, "out")
