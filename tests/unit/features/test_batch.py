"""What a batch promises: lists padded to the longest, towers run once."""

from dataclasses import replace

import numpy as np
import pytest

from cacs_ray.features.batch import EncodedLog


@pytest.fixture
def log():
    """Three impressions: ad 1 has creatives 1, 2; ad 2 has 3, 4, 5."""
    return EncodedLog(
        users={"user.age": np.array([0, 7, 8], np.int32)},
        ads={"ad.kind": np.array([0, 1, 2], np.int32)},
        creatives={"creative.look": np.arange(6, dtype=np.float16)[:, None]},
        creative_ad_row=np.array([0, 1, 1, 2, 2, 2], np.int32),
        requests={"request.device": np.array([3, 4, 5], np.int32)},
        lists=np.array([[1, 2, 0], [3, 4, 5]], np.int32),
        user_row=np.array([1, 0, 2], np.int32),
        ad_row=np.array([1, 2, 1], np.int32),
        list_row=np.array([0, 1, 0], np.int32),
        shown_index=np.array([1, 2, 0], np.int32),
        slot=np.array([0, 1, 0], np.int32),
        label=np.array([1, 0, 0], np.float32),
        weight=np.ones(3, np.float32),
        propensity=np.full(3, 0.5, np.float32),
        request_ts=np.arange(3),
        bid_micros=np.ones(3, np.int64),
        request_row=np.arange(3, dtype=np.int32),
    )


def test_lists_are_padded_to_the_longest_of_the_batch_alone(log):
    assert log.batch(np.array([0, 2])).creative_mask.shape == (2, 2)
    assert log.batch(np.array([0, 1])).creative_mask.tolist() == [
        [True, True, False],
        [True, True, True],
    ]


def test_each_distinct_creative_is_there_once_and_the_blank_first(log):
    batch = log.batch(np.array([0, 2]))
    assert batch.catalogue_rows.tolist() == [0, 1, 2]
    assert batch.creative_index.tolist() == [[1, 2], [1, 2]]
    assert batch.creatives["creative.look"].squeeze(1).tolist() == [0, 1, 2]
    assert batch.creatives["ad.kind"].tolist() == [0, 1, 1]


def test_the_context_is_of_the_row_and_an_unknown_user_is_blank(log):
    context = log.batch(np.array([1, 0])).context
    assert context["user.age"].tolist() == [0, 7]
    assert context["request.device"].tolist() == [4, 3]
    assert context["ad.kind"].tolist() == [2, 1]


def test_without_whole_lists_only_the_shown_creative_is_left(log):
    batch = log.batch(np.array([0, 1]), wanted="shown")
    assert batch.catalogue_rows[batch.creative_index].tolist() == [[2], [5]]
    assert batch.shown_index.tolist() == [0, 0]


def test_only_clicked_rows_may_keep_their_lists(log):
    is_clicked = np.array([1, 0, 0], np.float32)
    batch = replace(log, label=is_clicked).batch(np.array([0, 1]), wanted="clicked")
    assert batch.catalogue_rows[batch.creative_index].tolist() == [[1, 2], [5, 0]]
    assert batch.shown_index.tolist() == [1, 0]
    assert batch.list_length.tolist() == [2, 3]


def test_teacher_logits_are_cut_to_the_lists(log):
    taught = np.array([[0.5, 0.25, 9.0]])
    batch = log.batch(np.array([0]), taught)
    assert batch.teacher_logits.tolist() == [[0.5, 0.25]]


def test_list_lengths_are_those_of_the_rows(log):
    assert log.list_lengths.tolist() == [2, 3, 2]
