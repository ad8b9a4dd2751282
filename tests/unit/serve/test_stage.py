"""What a stage promises: it answers for its own release, from the request alone."""

from types import SimpleNamespace

import numpy as np
import pytest

from cacs_ray.errors import InputError
from cacs_ray.schema import REQUESTS, Column
from serve.ranker import Ranker
from serve.release import PageView, request_columns, requests_table
from serve.selector import Selector

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
    asked = []

    def context(requests):
        asked.append(requests)
        return requests

    def by_row(_, rows):
        return rows * 10.0

    return SimpleNamespace(
        bundle_id="r1",
        fitted=SimpleNamespace(
            spec=SimpleNamespace(of=lambda _: release.fields),
        ),
        catalogue=release.catalogue,
        asked=asked,
        context=context,
        selector_scores=by_row,
        teacher_scores=by_row,
        pctr=by_row,
    )


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
        answer = getattr(stage(lambda: predictor), method)("r1", PAGE, creatives)
        assert answer.release == "r1"
        assert answer.scores.tolist() == (creatives * 10.0).tolist()

    def test_it_refuses_another_release(self, predictor, stage, method, creatives):
        started = stage(lambda: predictor)
        num_asked = len(predictor.asked)

        answer = getattr(started, method)("r2", PAGE, creatives)

        assert (answer.release, answer.scores) == ("r1", None)
        assert len(predictor.asked) == num_asked

    def test_it_is_warm_before_the_first_request(
        self, predictor, stage, method, creatives
    ):
        stage(lambda: predictor)
        assert len(predictor.asked) == 1


def test_a_stage_sees_the_contracts_requests_table(release):
    table = requests_table(PAGE, request_columns(release.fields))

    for name in (Column.REQUEST_ID, Column.REQUEST_TS, Column.AD_ID):
        assert table.schema.field(name).type == REQUESTS.field(name).type
    assert table[Column.AD_ID].to_pylist() == ["hat", "shoe"]
    assert table["device"].to_pylist() == ["phone", "phone"]
    assert table["taste"].to_pylist() == [[0.5, 1.0]] * 2
    # Declared and not sent: unknown.
    assert table["query"].null_count == 2


def test_a_release_without_creatives_is_refused(release, predictor):
    from dataclasses import replace

    catalogue = release.catalogue
    predictor.catalogue = replace(
        catalogue,
        creative_ids=("",),
        creative_ad_row=catalogue.creative_ad_row[:1],
        live_from_us=catalogue.live_from_us[:1],
        live_until_us=catalogue.live_until_us[:1],
    )
    with pytest.raises(InputError, match="empty_catalogue"):
        Selector(lambda: predictor)
