"""What field encoding promises."""

import pytest
import torch

from cacs_ray.models.embeddings import (
    EmbeddingTables,
    FieldEncoder,
    Widths,
    gather_rows,
    module_key,
)
from cacs_ray.models.tower import PositionLogit
from tests.synthetic_log import SPEC

BY_KEY = {field.key: field for field in SPEC.fields}


def test_fields_of_one_vocabulary_share_one_table():
    fields = [BY_KEY["user.recent"], BY_KEY["ad.topic"]]
    tables = EmbeddingTables(SPEC, fields, 4)
    assert tables.span(fields[0]) == tables.span(fields[1])
    assert torch.equal(tables.table(fields[0]), tables.weight)
    assert len(list(tables.parameters())) == 1


def test_the_unknown_value_is_zero_and_stays_zero():
    field = BY_KEY["ad.topic"]
    tables = EmbeddingTables(SPEC, [field], 4)
    optimizer = torch.optim.Adam(tables.parameters(), lr=0.1)
    ((tables(field, torch.tensor([0, 1])) - 1) ** 2).sum().backward()
    optimizer.step()
    assert tables(field, torch.tensor([0])).abs().sum() == 0


def test_a_list_is_the_mean_of_its_known_values():
    field = BY_KEY["user.recent"]
    tables = EmbeddingTables(SPEC, [field], 4)
    encoder = FieldEncoder([field], Widths(4, 4))
    rows = {"user.recent": torch.tensor([[1, 2, 0], [0, 0, 0]])}

    encoded = encoder(rows, tables)

    expected = tables(field, torch.tensor([1, 2])).mean(0)
    assert torch.allclose(encoded[0], expected)
    assert encoded[1].tolist() == [0.0] * 4


def test_without_fields_there_is_a_constant():
    encoder = FieldEncoder([], Widths(4, 4))
    tables = EmbeddingTables(SPEC, [], 4)
    assert encoder({"x": torch.zeros(3)}, tables).tolist() == [[1.0]] * 3
    assert encoder({}, tables).tolist() == [[1.0]]


def test_inference_looks_up_all_ids_at_once_and_finds_the_same():
    keys = ["request.hour", "user.user_id", "user.recent", "ad.topic"]
    fields = [BY_KEY[key] for key in keys]
    assert {one.encoding for one in fields} > {"index"}
    tables = EmbeddingTables(SPEC, fields, 4)
    encoder = FieldEncoder(fields, Widths(4, 4))
    rows = {
        "request.hour": torch.randn(3, BY_KEY["request.hour"].width),
        "user.user_id": torch.tensor([1, 0, 2]),
        "user.recent": torch.tensor([[1, 2], [0, 0], [2, 0]]),
        "ad.topic": torch.tensor([2, 1, 0]),
    }
    keep = {"user.user_id": torch.tensor([1.0, 0.0, 0.5])}
    trained = encoder(rows, tables, keep)

    with torch.inference_mode():
        assert torch.equal(encoder(rows, tables, keep), trained)


@pytest.mark.parametrize("name", ["values", "training", "a.b", "a%2Eb", "", "type"])
def test_any_vocabulary_name_can_name_a_module(name):
    torch.nn.ModuleDict({module_key(name): torch.nn.Identity()})
    assert module_key("a.b") != module_key("a%2Eb")


def test_gathering_is_indexing():
    table = torch.arange(6.0).reshape(3, 2)
    assert gather_rows(table, torch.tensor([[2, 0]])).tolist() == [[[4, 5], [0, 1]]]


def test_slot_0_adds_nothing_and_late_slots_count_as_the_last():
    position = PositionLogit(3)
    with torch.no_grad():
        position.beyond_first.copy_(torch.tensor([-1.0, -2.0]))
    slots = torch.tensor([0, 1, 2, 9])
    assert position(slots).tolist() == [0.0, -1.0, -2.0, -2.0]
