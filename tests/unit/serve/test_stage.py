"""What a stage promises: it answers for its own release, from the request alone."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cacs_ray.schema import REQUESTS, Column
from serve.holder import OneRelease
from serve.ranker import Ranker
from serve.release import PageView, request_columns, requests_table
from serve.selector import Selector
from serve.stage import StageRelease

PAGE = PageView(
    request_id="q1",
    request_ts_us=1_000_000,
    user_id=None,
    features={"device": "phone", "taste": [0.5, 1.0]},
    ad_ids=("hat", "shoe"),
    bid_micros=(5, 7),
)
LISTS = np.array([[1, 2], [3, 0]], np.int32)


@pytest.fixture
def predictor(release):
    asked, parts = [], []

    def context(requests):
        asked.append(requests)
        return requests

    def by_row(_, rows, part=None):
        parts.extend([part] if part else [])
        return rows * 10.0

    return SimpleNamespace(
        bundle_id="r1",
        fitted=SimpleNamespace(
            spec=SimpleNamespace(of=lambda _: release.fields),
        ),
        catalogue=release.catalogue,
        asked=asked,
        parts=parts,
        context_part=lambda _: "part of a page",
        context=context,
        selector_scores=by_row,
        teacher_scores=by_row,
        pctr=by_row,
    )


def held(predictor):
    return OneRelease("r1", StageRelease(predictor))


@pytest.mark.parametrize(
    ("stage", "method", "creatives"),
    [
        (Selector, "selector_scores", LISTS),
        (Ranker, "teacher_scores", LISTS),
        (Ranker, "pctr", LISTS[:, 0]),
    ],
)
class TestEveryStage:
    def test_it_scores_the_asked_creatives(self, predictor, stage, method, creatives):
        answer = getattr(stage(held(predictor)), method)("r1", PAGE, creatives)
        assert answer.release == "r1"
        assert answer.scores.tolist() == (creatives * 10.0).tolist()

    def test_it_refuses_another_release(self, predictor, stage, method, creatives):
        answer = getattr(stage(held(predictor)), method)("r2", PAGE, creatives)

        assert answer.scores is None
        assert not predictor.asked


def test_a_page_is_encoded_once_for_all_stages_of_a_process(predictor):
    releases = held(predictor)
    page = replace(PAGE, token="page-1")

    ranker = Ranker(releases)
    ranker.open_page("r1", page, LISTS[:0, 0])
    Selector(releases).selector_scores("r1", page, LISTS)
    ranker.pctr("r1", page, LISTS[:, 0])

    assert len(predictor.asked) == 1
    assert predictor.parts == ["part of a page"]


def test_pages_with_tokens_of_their_own_never_share_what_was_encoded(predictor):
    ranker = Ranker(held(predictor))
    for token in ("page-1", "page-2", "", ""):
        ranker.pctr("r1", replace(PAGE, token=token), LISTS[:, 0])
    # Without a token nothing is kept, not even within one call.
    assert len(predictor.asked) == 2 + 2 * 2


def test_a_stage_sees_the_contracts_requests_table(release):
    table = requests_table(PAGE, request_columns(release.fields))

    for name in (Column.REQUEST_ID, Column.REQUEST_TS, Column.AD_ID):
        assert table.schema.field(name).type == REQUESTS.field(name).type
    assert table[Column.AD_ID].to_pylist() == ["hat", "shoe"]
    assert table["device"].to_pylist() == ["phone", "phone"]
    assert table["taste"].to_pylist() == [[0.5, 1.0]] * 2
    # Declared and not sent: unknown.
    assert table["query"].null_count == 2
