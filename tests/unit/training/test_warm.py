"""What a warm start promises."""

import numpy as np
import pyarrow as pa
import torch

from cacs_ray.features.vocabulary import Vocabulary
from cacs_ray.models.selector import Selector
from cacs_ray.training.warm import earlier_index, take_weights
from tests import synthetic_log
from tests.synthetic_log import SPEC, make_log, selector_config

COUNTS = synthetic_log.counts(make_log(400))


def vocabulary(values: list[str], num_buckets: int = 0) -> Vocabulary:
    counts = np.ones(len(values))
    return Vocabulary("v", pa.array(values), counts, num_buckets=num_buckets)


def selector(seed: int) -> Selector:
    torch.manual_seed(seed)
    return Selector(SPEC, selector_config("learnt"), COUNTS)


def test_rows_are_found_by_value_whatever_their_number():
    before, now = vocabulary(["a", "b"]), vocabulary(["c", "b", "a"])
    assert earlier_index(now, before).tolist() == [0, 0, 2, 1]


def test_a_value_that_was_in_a_bucket_starts_from_it():
    before, now = vocabulary(["a"], 3), vocabulary(["rare", "a"], 3)
    index = earlier_index(now, before)
    bucket = int(before.encode(pa.array(["rare"]))[0])
    assert index.tolist() == [0, bucket, 1, 2, 3, 4]
    assert bucket >= 2


def test_known_rows_are_copied_new_ones_stay_fresh_and_counts_are_of_now():
    earlier, now, fresh = selector(1), selector(2), selector(2)
    places = {}
    for name, span in now.tables.spans.items():
        places[name] = np.arange(span.size)
        places[name][-1] = 0  # the last value is new
    with torch.no_grad():
        for buffer in earlier.buffers():
            buffer.add_(100.0)

    take_weights(now, earlier, places)

    for span in now.tables.spans.values():
        last = span.start + span.size - 1
        kept = slice(span.start, last)
        assert torch.equal(now.tables.weight[kept], earlier.tables.weight[kept])
        assert torch.equal(now.tables.weight[last], fresh.tables.weight[last])
    for name, weight in now.named_parameters():
        if name != "tables.weight":
            assert torch.equal(weight, earlier.get_parameter(name)), name
    for ours, old in zip(now.buffers(), fresh.buffers(), strict=True):
        assert torch.equal(ours, old)
