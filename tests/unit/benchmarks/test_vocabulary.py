import numpy as np
import pytest
import torch

from cacs_ray.benchmarks.limit import bytes_per_row
from cacs_ray.benchmarks.vocabulary import drawn_log
from cacs_ray.models.ranker import Ranker
from cacs_ray.training.rows import Rows
from cacs_ray.training.steps import RankerStep
from tests.synthetic_log import ranker_config


@pytest.mark.parametrize("size", [40, 4000])
def test_a_drawn_log_has_its_size_and_only_known_rows(size):
    spec, log, counts = drawn_log(size, 500)

    assert {v.num_values for v in spec.vocabularies} == {size, size // 4}
    assert log.user_row.min() >= 1
    assert log.user_row.max() <= size
    assert log.lists.max() == size
    assert {int(count.sum()) for count in counts.values()} == {500}
    shown = log.lists[log.list_row, log.shown_index]
    assert np.array_equal(log.creative_ad_row[shown], log.ad_row)


def test_the_shape_of_the_draw_does_not_depend_on_its_size():
    shares = []
    for size in (1000, 100_000):
        _, log, _ = drawn_log(size, 20_000)
        shares.append(float(np.mean(log.user_row <= size // 8)))
    assert shares == pytest.approx([0.5, 0.5], abs=0.02)  # V u^3 < V / 8: u < 1 / 2


def test_the_bytes_of_a_row_count_touched_rows_of_tables_not_their_size():
    moved = []
    for size in (4000, 40_000):
        spec, log, counts = drawn_log(size, 64)
        step = RankerStep(Ranker(spec, ranker_config(), counts))
        batch = Rows(log, "shown").batch(np.arange(64), torch.device("cpu"))
        moved.append(bytes_per_row(step, batch))

    assert moved[0] == pytest.approx(moved[1], rel=0.05)
    floats = moved[1] / 4
    # 192 lookups of 8 numbers at most; activations are the rest.
    assert floats > sum(p.numel() for p in step.ranker.deep.parameters()) * 9 / 64
