"""What the only encoder promises for each kind of field."""

import numpy as np
import pyarrow as pa
import pytest

from cacs_ray.features.encode import (
    EncodedOnce,
    blank_rows,
    encode_rows,
    with_blank_row,
)
from cacs_ray.features.spec import FeatureSpec, FieldSpec
from cacs_ray.features.vocabulary import Vocabulary, stable_hash

KINDS = Vocabulary("kinds", pa.array(["hat", "shoe"]), np.array([9.0, 4.0]))


def fields(*given):
    return FeatureSpec(fields=given, vocabularies=(KINDS.spec,))


def encode(spec, table, content=None):
    return encode_rows(table, spec, {"kinds": KINDS}, "user", content=content)


def field(name, kind, **more):
    return FieldSpec(name=name, of="user", kind=kind, column=name, **more)


def test_unknown_and_missing_categories_are_index_zero():
    spec = fields(field("kind", "category", vocabulary="kinds"))
    encoded = encode(spec, pa.table({"kind": ["shoe", "glove", None, "hat"]}))
    assert encoded["user.kind"].tolist() == [2, 0, 0, 1]


def test_a_column_that_is_absent_is_missing_everywhere():
    spec = fields(field("kind", "category", vocabulary="kinds"), field("age", "number"))
    encoded = encode(spec, pa.table({"other": [1, 2]}))
    assert encoded["user.kind"].tolist() == [0, 0]
    assert encoded["user.age"].tolist() == [[0, 1], [0, 1]]


def test_lists_keep_the_newest_and_pad_with_zero():
    spec = fields(field("recent", "category_list", vocabulary="kinds", size=2))
    rows = [["shoe", "hat", "hat"], [], None, ["glove", "hat"]]
    encoded = encode(spec, pa.table({"recent": rows}))
    assert encoded["user.recent"].tolist() == [[2, 1], [0, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_a_number_that_is_none_is_zero_and_flagged(bad):
    spec = fields(field("age", "number", mean=30.0, scale=10.0))
    encoded = encode(spec, pa.table({"age": [50.0, bad]}))
    assert encoded["user.age"].tolist() == [[(50 - 30) / 10, 0], [0, 1]]


def test_vectors_are_scaled_and_the_missing_one_is_flagged():
    spec = fields(field("look", "vector", size=2, scale=2.0))
    encoded = encode(spec, pa.table({"look": [[1.0, 4.0], None, [0.0, -2.0]]}))
    assert encoded["user.look"].tolist() == [[0.5, 2, 1], [0, 0, 0], [0, -1, 1]]


def test_texts_go_through_the_content_encoder_that_is_given():
    spec = fields(field("title", "text", size=1, scale=4.0, encoder="length"))
    seen = []

    def content(asked, column):
        seen.append((asked.name, column.to_pylist()))
        return np.array([[len(text), 1.0] for text in column.to_pylist()])

    encoded = encode(spec, pa.table({"title": ["four", "eight888"]}), content)
    assert encoded["user.title"].tolist() == [[1, 1], [2, 1]]
    assert seen == [("title", ["four", "eight888"])]


def test_the_blank_row_is_the_row_of_which_nothing_is_known():
    spec = fields(
        field("kind", "category", vocabulary="kinds"),
        field("recent", "category_list", vocabulary="kinds", size=2),
        field("age", "number"),
        field("look", "vector", size=2),
    )
    nothing = encode(spec, pa.table({"other": [0]}))
    for key, blank in blank_rows(spec, "user").items():
        np.testing.assert_array_equal(blank, nothing[key])
    assert with_blank_row(nothing, spec, "user")["user.age"].shape == (2, 2)


def test_many_rows_and_few_rows_encode_alike():
    values = ["hat", "shoe", None, "glove"] * 2000
    many = KINDS.encode(pa.chunked_array([values]))
    few = KINDS.encode(pa.array(values[:4]))
    assert many.tolist() == few.tolist() * 2000


def test_values_outside_fall_into_declared_buckets_and_null_does_not():
    hashed = Vocabulary("k", pa.array(["hat"]), np.array([9.0]), num_buckets=7)
    encoded = hashed.encode(pa.array(["hat", "glove", None]))
    assert encoded.tolist() == [1, 2 + stable_hash("glove") % 7, 0]
    assert hashed.spec.size == 1 + 1 + 7


def test_a_kept_vocabulary_encodes_and_counts_as_before():
    hashed = Vocabulary(
        "k",
        pa.array(["b", "a"]),
        np.array([3.0, 2.0]),
        num_buckets=2,
        bucket_counts=np.array([1.0, 5.0]),
    )
    again = Vocabulary.from_table(hashed.spec, hashed.to_table())
    assert again.counts.tolist() == [0, 3, 2, 1, 5]
    assert again.spec == hashed.spec


def test_contents_that_two_ask_for_are_encoded_once():
    asked = []

    def content(field, column):
        asked.append(field.key)
        return np.full((len(column), 3), float(len(asked)))

    once = EncodedOnce(content)
    title, column = field("title", "text", size=2), pa.chunked_array([["a", "b"]])
    np.testing.assert_array_equal(once(title, column), once(title, column))
    assert asked == ["user.title"]
    # Nothing is held for longer, and a copy for a worker carries nothing.
    once(title, column)
    assert asked == ["user.title"] * 2
    copy = EncodedOnce.__reduce__(once)[1][0]
    assert copy is content
    query = title.model_copy(update={"of": "request"})
    assert once(query, column)[0, 0] == 3
    assert once(query, column)[0, 0] == 4
