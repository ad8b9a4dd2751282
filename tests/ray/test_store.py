"""What fitting and the encoded log promise on a tiny shop."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cacs_ray.data.declaration import FeatureDeclaration
from cacs_ray.features.fit import FeatureConfig, TrainingWindow, fit_features
from cacs_ray.features.request_text import encode_request_text
from cacs_ray.features.store import AcceptedRows, open_encoded, write_store
from cacs_ray.schema import IMPRESSIONS, TIMESTAMP

DECLARED = [
    FeatureDeclaration(name="user_id", of="user", kind="id"),
    FeatureDeclaration(name="device", of="request", kind="category"),
    FeatureDeclaration(name="hour", of="request", kind="number"),
    FeatureDeclaration(name="creative_id", of="creative", kind="id"),
    FeatureDeclaration(name="title", of="creative", kind="text"),
    # Names that counting uses for its own sums.
    FeatureDeclaration(name="weight", of="creative", kind="category"),
    FeatureDeclaration(name="clicks", of="request", kind="category"),
    FeatureDeclaration(name="place", of="request", kind="vector", size=2),
]
ENTITIES = {
    "creative": pa.table(
        {
            "creative_id": ["felt", "wool", "blue"],
            "ad_id": ["hat", "hat", "shoe"],
            "title": ["warm felt", None, "blue shoe"],
            "weight": ["light", "heavy", "light"],
        }
    ),
    "ad": pa.table({"ad_id": ["hat", "shoe"]}),
    "user": pa.table({"user_id": ["ann", "bob"]}),
}


def impression(ts, creative, **more):
    ad = "shoe" if creative == "blue" else "hat"
    row = {"request_id": f"r{ts}", "request_ts": ts, "ad_id": ad, "slot": 0}
    row |= {"creative_id": creative, "is_clicked": False, "device": "phone"}
    return row | {"hour": 1.0, "clicks": "few", "place": None} | more


ROWS = [
    impression(
        0,
        "felt",
        user_id="ann",
        is_clicked=True,
        weight=3.0,
        hour=4.0,
        place=[600, 800],
    ),
    impression(1, "wool", user_id="bob", candidate_creative_ids=["wool"]),
    impression(2, "blue", user_id="eve", device="desk", propensity=0.25),
    # After training: what is new here must stay unknown.
    impression(10, "wool", user_id="bob", device="watch", hour=None),
    impression(11, "felt", candidate_creative_ids=["wool", "felt"]),
]


@pytest.fixture(scope="module")
def store(ray_local, tmp_path_factory):
    """The shop's log in two files, fitted on moments 0 .. 9."""
    root = tmp_path_factory.mktemp("store")
    texts = [(name, pa.string()) for name in ("device", "clicks")]
    schema = pa.schema(
        [
            *IMPRESSIONS,
            *texts,
            ("hour", pa.float64()),
            ("place", pa.list_(pa.float32())),
        ]
    )
    files = []
    for number, rows in enumerate((ROWS[:2], ROWS[2:])):
        timed = pa.Table.from_pylist(
            rows,
            pa.schema(
                [
                    f if f.name != "request_ts" else pa.field(f.name, pa.int64())
                    for f in schema
                ]
            ),
        )
        at = timed.column_names.index("request_ts")
        timed = timed.set_column(at, "request_ts", timed["request_ts"].cast(TIMESTAMP))
        files.append(str(root / f"part-{number}.parquet"))
        pq.write_table(timed, files[-1])
    fitted = fit_features(
        DECLARED,
        (),
        ENTITIES,
        TrainingWindow(files, 0, 10),
        FeatureConfig(text_encoder="hashed-ngrams"),
        encode_request_text,
    )
    windows = {"train": (0, 10), "test": (10, 20)}
    accepted = AcceptedRows(files, windows)
    rows = write_store(root, fitted, ENTITIES, accepted, encode_request_text)
    return root, fitted, rows


def test_every_row_is_in_its_window(store):
    _, _, rows = store
    assert rows == {"train": 3, "test": 2}


def test_counts_are_those_of_training_and_honour_weights(store):
    _, fitted, _ = store
    assert fitted.catalogue.impressions[1:].tolist() == [3, 1, 1]
    assert fitted.catalogue.clicks[1:].tolist() == [3, 0, 0]
    vocabulary = fitted.vocabularies["creative.creative_id"]
    assert vocabulary.values.to_pylist() == ["felt", "blue", "wool"]
    assert vocabulary.counts.tolist() == [0, 3, 1, 1]


def test_a_feature_may_be_called_like_a_sum(store):
    _, fitted, _ = store
    weights = fitted.vocabularies["creative.weight"]
    assert weights.values.to_pylist() == ["light", "heavy"]
    assert weights.counts.tolist() == [0, 3 + 1, 1]
    clicks = fitted.vocabularies["request.clicks"]
    assert clicks.values.to_pylist() == ["few"]
    assert clicks.counts.tolist() == [0, 3 + 1 + 1]


def test_numbers_are_scaled_by_weighted_moments_of_training(store):
    _, fitted, _ = store
    hour = next(f for f in fitted.spec.fields if f.name == "hour")
    mean = (3 * 4 + 1 + 1) / 5
    assert hour.mean == pytest.approx(mean)
    variance = (3 * 4**2 + 1 + 1) / 5 - mean**2
    assert hour.scale == pytest.approx(variance**0.5)


def test_vectors_of_requests_are_scaled_by_their_root_mean_square(store):
    _, fitted, _ = store
    place = next(f for f in fitted.spec.fields if f.name == "place")
    assert place.scale == pytest.approx(((600**2 + 800**2) / 2) ** 0.5)


def test_what_training_never_saw_is_unknown(store):
    root, fitted, _ = store
    test = open_encoded(root, "test")
    assert "watch" not in fitted.vocabularies["request.device"].values.to_pylist()
    assert test.requests["request.device"][0] == 0
    assert test.requests["request.hour"][0].tolist() == [0, 1]


def test_unknown_and_absent_users_are_the_blank_row(store):
    root, _, _ = store
    assert open_encoded(root, "train").user_row.tolist() == [1, 2, 0]
    assert open_encoded(root, "test").user_row.tolist() == [2, 0]


def test_lists_are_those_of_the_log_or_else_all_that_is_live(store):
    root, _, _ = store
    train, test = open_encoded(root, "train"), open_encoded(root, "test")
    found = [[row for row in train.lists[r] if row] for r in train.list_row]
    assert found == [[1, 2], [2], [3]]
    # The same creatives in another order are the same list.
    found = [[row for row in test.lists[r] if row] for r in test.list_row]
    assert found == [[1, 2], [1, 2]]


def test_the_shown_creative_stands_where_the_index_says(store):
    root, _, _ = store
    for window, shown in (("train", [1, 2, 3]), ("test", [2, 1])):
        log = open_encoded(root, window)
        lists = log.lists[log.list_row]
        assert lists[np.arange(len(log)), log.shown_index].tolist() == shown


def test_weights_propensities_and_labels_arrive(store):
    root, _, _ = store
    train = open_encoded(root, "train")
    assert train.weight.tolist() == [3, 1, 1]
    assert train.label.tolist() == [1, 0, 0]
    np.testing.assert_array_equal(train.propensity, [np.nan, np.nan, 0.25])


def test_requests_are_numbered_as_they_first_appear(store):
    root, _, _ = store
    assert open_encoded(root, "train").request_row.tolist() == [0, 1, 2]
    assert open_encoded(root, "train").request_row.dtype == np.int32


def test_nothing_but_the_store_is_left(store):
    root, _, _ = store
    assert not (root / "shards").exists()
    assert not list(root.rglob("request_hash.bin"))
