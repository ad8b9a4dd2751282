"""What the catalogue promises: only what is live, and only of the right ad."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacs_ray.features.catalogue import Catalogue
from cacs_ray.schema import TIMESTAMP

ADS = pa.table({"ad_id": ["hat", "shoe"]})


def catalogue(creatives):
    """Build from (creative, ad, live from, live until)."""
    names, ads, starts, ends = zip(*creatives, strict=True)
    return Catalogue.from_tables(
        pa.table(
            {
                "creative_id": list(names),
                "ad_id": list(ads),
                "live_from_ts": pa.array(starts, TIMESTAMP),
                "live_until_ts": pa.array(ends, TIMESTAMP),
            }
        ),
        ADS,
    )


SHOP = catalogue(
    [
        ("felt", "hat", None, 15),
        ("wool", "hat", 10, None),
        ("straw", "hat", 20, None),
        ("blue", "shoe", None, 30),
    ]
)


@pytest.mark.parametrize(
    ("ad", "moment", "live"),
    [
        ("hat", 9, ["felt"]),
        ("hat", 10, ["felt", "wool"]),  # from is the first moment
        ("hat", 14, ["felt", "wool"]),
        ("hat", 15, ["wool"]),  # until is the first moment it is not
        ("hat", 20, ["wool", "straw"]),
        ("shoe", 29, ["blue"]),
        ("shoe", 30, []),
        ("glove", 12, []),  # an unknown ad has nothing
    ],
)
def test_a_creative_is_live_from_its_first_moment_until_before_its_last(
    ad, moment, live
):
    lists = SHOP.lists(SHOP.ad_row([ad]), np.array([moment]))
    assert [SHOP.creative_ids[row] for row in lists[0] if row] == live


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["hat", "shoe"]),
            st.none() | st.integers(0, 20),
            st.none() | st.integers(0, 20),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(-1, 21),
)
def test_lists_are_what_a_plain_filter_finds(drawn, moment):
    named = [(f"c{i}", *creative) for i, creative in enumerate(drawn)]
    shop = catalogue(named)
    for ad in ("hat", "shoe"):
        expected = [
            name
            for name, owner, start, end in named
            if owner == ad
            and (start is None or start <= moment)
            and (end is None or moment < end)
        ]
        found = shop.lists(shop.ad_row([ad]), np.array([moment]))[0]
        assert [shop.creative_ids[row] for row in found if row] == expected


def test_unknown_ids_are_row_zero():
    assert SHOP.ad_row(["shoe", None, "glove"]).tolist() == [2, 0, 0]
    assert SHOP.creative_row(["wool", None, "silk"]).tolist() == [2, 0, 0]


def test_counts_follow_the_creative_id_into_another_catalogue():
    old = catalogue([("wool", "hat", None, None), ("felt", "hat", None, None)])
    seen = Catalogue(
        **{
            **{name: getattr(old, name) for name in old.__dataclass_fields__},
            "clicks": np.array([0.0, 3.0, 1.0]),
            "impressions": np.array([0.0, 30.0, 10.0]),
            "prior": (2.0, 38.0),
        }
    )
    new = SHOP.with_counts_of(seen)
    # felt, wool, straw, blue: the last two were never seen.
    assert new.impressions[1:].tolist() == [10.0, 30.0, 0.0, 0.0]
    assert new.clicks[1:].tolist() == [1.0, 3.0, 0.0, 0.0]
    assert new.prior == (2.0, 38.0)


def test_kept_tables_give_the_same_catalogue():
    again = Catalogue.from_kept_tables(*SHOP.to_tables(), SHOP.prior)
    for name in ("creative_ad_row", "live_from_us", "live_until_us"):
        np.testing.assert_array_equal(getattr(again, name), getattr(SHOP, name))
    assert again.creative_ids == SHOP.creative_ids


def test_no_creative_is_not_the_creative_without_a_name():
    shop = catalogue([("felt", "hat", None, None), ("", "hat", None, None)])
    assert shop.creative_row([None, "", "felt", "silk"]).tolist() == [0, 2, 1, 0]
    assert shop.ad_row([None, "", "hat"]).tolist() == [0, 0, 1]
