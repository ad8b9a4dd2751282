"""What a log that grows by a day promises: old files stay as they were encoded."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cacs_ray.data.dataset import read_dataset, write_dataset
from cacs_ray.data.declaration import FeatureDeclaration
from cacs_ray.data.logs import validate_log
from cacs_ray.features.fit import FeatureConfig
from cacs_ray.features.request_text import encode_request_text
from cacs_ray.features.store import open_encoded, open_fitted
from cacs_ray.recipes.config import run_config
from cacs_ray.recipes.features import FeatureInput, encode_log

DAY = 86_400_000_000
START = 20_000 * DAY
FEATURES = [
    FeatureDeclaration(name="user_id", of="user", kind="id"),
    FeatureDeclaration(name="device", of="request", kind="category"),
    FeatureDeclaration(name="hour", of="request", kind="number"),
    FeatureDeclaration(name="creative_id", of="creative", kind="id"),
]
CONFIG = run_config("small").override({"features.text_encoder": "hashed-ngrams"})
pytestmark = pytest.mark.usefixtures("ray_local")


def day_of(day, *, num_rows=30, devices=("phone", "desk")):
    rng = np.random.default_rng(day)
    # Two ads a request, one of the first two creatives and one of the others.
    creative = np.arange(num_rows) % 2 * 2 + rng.integers(0, 2, num_rows)
    given = [[f"c{c}", f"c{(c // 2) * 2}"] if c % 2 else None for c in creative]
    return pa.table(
        {
            "request_id": [f"r{day}-{n // 2}" for n in range(num_rows)],
            "request_ts": pa.array(
                START + day * DAY + np.arange(num_rows) * 1_000_000,
                pa.timestamp("us", "UTC"),
            ),
            # Names of later days sort before those of earlier ones.
            "user_id": [f"u{9 - day}-{n}" for n in rng.integers(0, 5, num_rows)],
            "ad_id": [f"a{c // 2}" for c in creative],
            "creative_id": [f"c{c}" for c in creative],
            "slot": np.arange(num_rows) % 2,
            "is_clicked": rng.random(num_rows) < 0.3,
            "candidate_creative_ids": pa.array(given, pa.list_(pa.string())),
            "device": rng.choice(devices, num_rows),
            "hour": rng.random(num_rows) * (day + 1),
        }
    )


def write_log(root, days):
    (root / "impressions").mkdir(parents=True, exist_ok=True)
    for day, rows in days.items():
        pq.write_table(rows, root / "impressions" / f"day-{day}.parquet")
    pq.write_table(pa.table({"ad_id": ["a0", "a1"]}), root / "ads.parquet")
    creatives = {
        "creative_id": ["c0", "c1", "c2", "c3"],
        "ad_id": ["a0", "a0", "a1", "a1"],
        "live_from_ts": pa.array([None, None, None, 0], pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(creatives), root / "creatives.parquet")
    tables = {"impressions": "impressions"}
    tables |= {name: f"{name}.parquet" for name in ("creatives", "ads")}
    write_dataset(root, tables=tables, features=FEATURES)


def encode(log, out, caplog):
    dataset = read_dataset(log)
    validated = validate_log(dataset, out, kept=out / "checked")
    given = FeatureInput(
        dataset, validated, CONFIG, encode_request_text, out / "encoded"
    )
    store = out / f"features-{len(list(out.glob('features-*')))}"
    store.mkdir()
    caplog.clear()
    with caplog.at_level("INFO", logger="cacs_ray.features"):
        encode_log(store, given)
    (said,) = [r.getMessage() for r in caplog.records if "as encoded" in r.message]
    return store, said.removeprefix("features").strip()


def decoded(store, window):
    """All rows of a window in words, free of the numbers that stand for them."""
    log, fitted = open_encoded(store, window), open_fitted(store)
    users = fitted.vocabularies["user.user_id"].values.to_pylist()
    devices = fitted.vocabularies["request.device"].values.to_pylist()
    hour = next(f for f in fitted.spec.fields if f.name == "hour")
    catalogue = fitted.catalogue
    rows = []
    for n in range(len(log)):
        user = int(log.users["user.user_id"][log.user_row[n]])
        device = int(log.requests["request.device"][n])
        lists = log.lists[log.list_row[n]]
        rows.append(
            {
                "user": users[user - 1] if user else None,
                "device": devices[device - 1] if device else None,
                "ad": catalogue.ad_ids[log.ad_row[n]],
                "list": [catalogue.creative_ids[c] for c in lists if c],
                "shown": catalogue.creative_ids[lists[log.shown_index[n]]],
                "hour": round(
                    float(log.requests["request.hour"][n][0]) * hour.scale + hour.mean,
                    3,
                ),
                "ts": int(log.request_ts[n]),
                "slot": int(log.slot[n]),
                "label": float(log.label[n]),
                "request": int(log.request_row[n]),
            }
        )
    return rows


DAYS = {day: day_of(day) for day in range(6)}


def test_only_the_new_day_is_encoded_and_all_rows_are_as_from_scratch(tmp_path, caplog):
    write_log(tmp_path / "log", {day: DAYS[day] for day in range(5)})
    first, said = encode(tmp_path / "log", tmp_path / "out", caplog)
    assert said == "0 of 5 files as encoded before, 5 encoded now"
    write_log(tmp_path / "log", {5: DAYS[5]})
    grown, said = encode(tmp_path / "log", tmp_path / "out", caplog)
    assert said == "5 of 6 files as encoded before, 1 encoded now"
    scratch, said = encode(tmp_path / "log", tmp_path / "other", caplog)
    assert said == "0 of 6 files as encoded before, 6 encoded now"
    for window in ("train", "validation", "test"):
        assert decoded(grown, window) == decoded(scratch, window)
    before, now = open_fitted(first), open_fitted(grown)
    for name, vocabulary in before.vocabularies.items():
        kept = now.vocabularies[name].values.to_pylist()[: len(vocabulary.values)]
        assert kept == vocabulary.values.to_pylist()
    counted = open_fitted(scratch)
    for name, vocabulary in counted.vocabularies.items():
        counts = dict(
            zip(vocabulary.values.to_pylist(), vocabulary.counts[1:], strict=True)
        )
        again = now.vocabularies[name]
        assert counts == dict(
            zip(again.values.to_pylist(), again.counts[1:], strict=True)
        )
    assert now.catalogue.impressions.tolist() == counted.catalogue.impressions.tolist()
    # The day that was the test is the validation now, and the one before was that.
    assert len(open_encoded(grown, "train")) == 30 * 4


def test_a_file_is_encoded_again_when_what_it_held_is_known_now(tmp_path, caplog):
    days = {day: DAYS[day] for day in range(5)}
    # Seen in the validation window alone, which becomes training with a day more.
    days[3] = day_of(3, devices=("watch", "phone"))
    write_log(tmp_path / "log", days)
    first, _ = encode(tmp_path / "log", tmp_path / "out", caplog)
    assert None in {row["device"] for row in decoded(first, "validation")}
    write_log(tmp_path / "log", {5: DAYS[5]})
    grown, said = encode(tmp_path / "log", tmp_path / "out", caplog)
    assert said == "4 of 6 files as encoded before, 2 encoded now"
    seen = {row["device"] for row in decoded(grown, "train")}
    assert seen == {"phone", "desk", "watch"}


def test_a_run_that_was_killed_encodes_only_the_rest(tmp_path, caplog):
    write_log(tmp_path / "log", {day: DAYS[day] for day in range(5)})
    whole, _ = encode(tmp_path / "log", tmp_path / "out", caplog)
    shards = sorted((tmp_path / "out" / "encoded" / "shards").glob("*.arrow"))
    shards[0].unlink()
    shards[1].rename(shards[1].with_name(f"{shards[1].name}.partial-1"))
    again, said = encode(tmp_path / "log", tmp_path / "out", caplog)
    assert said == "3 of 5 files as encoded before, 2 encoded now"
    for window in ("train", "validation", "test"):
        assert decoded(again, window) == decoded(whole, window)


def test_all_is_encoded_anew_when_a_file_is_gone(tmp_path, caplog):
    write_log(tmp_path / "log", DAYS)
    encode(tmp_path / "log", tmp_path / "out", caplog)
    (tmp_path / "log" / "impressions" / "day-0.parquet").unlink()
    less, said = encode(tmp_path / "log", tmp_path / "out", caplog)
    assert said == "0 of 5 files as encoded before, 5 encoded now"
    users = open_fitted(less).vocabularies["user.user_id"].values.to_pylist()
    assert not [user for user in users if user.startswith("u9-")]


def test_hash_buckets_begin_anew(tmp_path, caplog, monkeypatch):
    small = FeatureConfig(
        text_encoder="hashed-ngrams", max_values=3, num_buckets=4
    ).model_dump()
    config = CONFIG.override({f"features.{k}": v for k, v in small.items()})
    monkeypatch.setitem(globals(), "CONFIG", config)
    write_log(tmp_path / "log", {day: DAYS[day] for day in range(5)})
    encode(tmp_path / "log", tmp_path / "out", caplog)
    write_log(tmp_path / "log", {5: DAYS[5]})
    _, said = encode(tmp_path / "log", tmp_path / "out", caplog)
    assert said == "0 of 6 files as encoded before, 6 encoded now"
