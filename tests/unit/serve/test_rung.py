"""What the answer says of the rung that it comes from."""

import pytest


def test_of_a_creative_new_to_the_ranker_the_answer_names_the_rung_below(
    make_service, page_view
):
    service = make_service()
    service.send({**page_view, "candidates": page_view["candidates"][:1]})
    service.ranker.error = RuntimeError("down")

    # The ranker has spoken of wool, and not yet of what is chosen for the shoe.
    answer = service.send(page_view, path="/v1/preview").json()

    assert answer["rung"]["ctr"] == "training_ctr"


@pytest.mark.parametrize(
    "change", [{"creative_ids": ["wool"]}, {"pinned_creative_id": "straw"}]
)
def test_an_ad_without_a_choice_needs_no_default_creative(
    make_service, page_view, release, change
):
    # Of the hats nothing is known; of the shoes red is the popular one.
    release.catalogue.clicks[1:3] = release.catalogue.impressions[1:3] = 0
    service = make_service()
    service.selector.error = RuntimeError("down")
    hat, shoe = page_view["candidates"]

    def rung(first):
        answer = service.send({**page_view, "candidates": [first, shoe]})
        return answer.json()["rung"]["choice"]

    assert rung(hat) == "default_creative"
    assert rung({**hat, **change}) == "popular_creative"
