"""What the rows of a stage promise."""

from dataclasses import replace

import numpy as np
import pytest

from cacs_ray.training.rows import Rows
from cacs_ray.training.windows import with_lists
from tests.synthetic_log import make_log


@pytest.mark.parametrize(("impressions", "weight"), [(1.0, 0.0), (500.0, 1.0)])
def test_lists_are_learnt_from_where_rows_stand_for_many_impressions(
    impressions, weight
):
    log = replace(make_log(20), weight=np.full(20, impressions, np.float32))
    found, (train, validation) = with_lists((Rows(log, "shown"), None), None)
    assert found == weight
    assert train.wanted == ("clicked" if weight else "shown")
    assert validation is None


def test_a_configured_weight_is_taken_as_it_is():
    rows = Rows(make_log(20), "shown"), Rows(make_log(10), "shown")
    weight, with_them = with_lists(rows, 0.3)
    assert weight == 0.3
    assert [part.wanted for part in with_them] == ["clicked", "clicked"]
