"""What looking up many ids promises."""

import numpy as np
import pyarrow as pa
import pytest

from cacs_ray import ids
from cacs_ray.ids import IdIndex

KNOWN = pa.array(["shoe", "hat", "", "coat"])
ASKED = pa.array(["coat", None, "scarf", "hat", "", "hat"])


def test_rows_are_those_of_the_known_ids():
    assert IdIndex(KNOWN).find(ASKED).tolist() == [3, -1, -1, 1, 2, 1]


def test_chunks_make_no_difference():
    asked = pa.chunked_array([ASKED[:2], ASKED[2:]])
    known = pa.chunked_array([KNOWN[:1], KNOWN[1:]])
    assert IdIndex(known).find(asked).tolist() == [3, -1, -1, 1, 2, 1]


@pytest.mark.parametrize("asked", [pa.array([], pa.string()), pa.nulls(2)])
def test_nothing_is_found_for_nothing(asked):
    assert IdIndex(KNOWN).find(asked).tolist() == [-1] * len(asked)
    assert IdIndex(pa.array([], pa.string())).find(ASKED).tolist() == [-1] * 6


@pytest.mark.parametrize("distinct_hashes", [1, 2])
def test_equal_hashes_of_different_ids_are_told_apart(monkeypatch, distinct_hashes):
    def few(values):
        size = [len(v or "") for v in values.to_pylist()]
        return np.array(size, np.uint64) % np.uint64(distinct_hashes)

    monkeypatch.setattr(ids, "hash_texts", few)
    assert IdIndex(KNOWN).find(ASKED).tolist() == [3, -1, -1, 1, 2, 1]
    # Without a collision among the known, an unknown id may still share a hash.
    assert IdIndex(pa.array(["shoe"])).find(pa.array(["coat"])).tolist() == [-1]
