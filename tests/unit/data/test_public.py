"""Public data become contract datasets that say what they stand for."""

import gzip

import polars as pl
import pytest

from cacs_ray.data.dataset import read_dataset
from cacs_ray.data.entities import read_entities
from cacs_ray.data.public import POLICY_FILE, import_open_bandit, import_upworthy
from cacs_ray.errors import InputError

# The first eight hex digits of a test are its creation time.
JUNE_1 = "51a93c00" + "0" * 16  # 2013-06-01
BROKEN = "51c8e000" + "0" * 16  # 2013-06-25, the first day left out
LAST_BROKEN = "52d05f80" + "0" * 16  # 2014-01-10 21:00
MARCH_1 = "53112500" + "0" * 16  # 2014-03-01
APRIL_1 = "533a0380" + "0" * 16  # 2014-04-01


def package(test, headline, image, impressions=100, clicks=10):
    return {
        "clickability_test_id": test,
        "headline": headline,
        "eyecatcher_id": image,
        "impressions": impressions,
        "clicks": clicks,
    }


PACKAGES = [
    package(JUNE_1, "A", "i1"),
    package(JUNE_1, "A", "i1", 50, 0),
    package(JUNE_1, "B", None, 30, 30),
    package(BROKEN, "X", "i9"),
    package(LAST_BROKEN, "Y", "i9"),
    package(MARCH_1, "C", "i1"),
    package(MARCH_1, " ", "i2"),
    package(APRIL_1, "D", "i3"),
    package(APRIL_1, "E", None),
]


@pytest.fixture
def upworthy(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    pl.DataFrame(PACKAGES).with_row_index("index").write_parquet(
        source / "exploratory_packages.parquet"
    )
    return source


def test_upworthy_is_a_contract_dataset(upworthy, tmp_path):
    counts = import_upworthy(upworthy, tmp_path / "out")
    assert counts == {
        "ads": 3,
        "creatives": 7,
        "stories": 2,
        "rows": 7 * 2 - 2,
        "impressions": 100 + 50 + 30 + 4 * 100,
        "clicks": 10 + 0 + 30 + 4 * 10,
        "tests_left_out": 2,
    }
    dataset = read_dataset(tmp_path / "out")
    entities = read_entities(dataset, tmp_path)
    assert all(not one.rejected for one in entities.counts.values())
    assert "doi:10.1038" in (tmp_path / "out" / "README.md").read_text()


def test_an_arm_is_its_clicked_and_its_unclicked_impressions(upworthy, tmp_path):
    import_upworthy(upworthy, tmp_path / "out")
    rows = pl.read_parquet(tmp_path / "out" / "impressions.parquet")
    first = rows.filter(pl.col("creative_id") == f"{JUNE_1}-00").sort("is_clicked")
    assert first["weight"].to_list() == [90.0, 10.0]
    assert first["propensity"].to_list() == [1 / 3, 1 / 3]
    # A side without impressions has no row.
    assert rows.filter(pl.col("creative_id") == f"{JUNE_1}-01").height == 1
    assert rows.select("request_id", "ad_id").is_duplicated().sum() == 0


def test_equal_packages_of_a_test_stay_apart(upworthy, tmp_path):
    import_upworthy(upworthy, tmp_path / "out")
    creatives = pl.read_parquet(tmp_path / "out" / "creatives.parquet")
    of_june = creatives.filter(pl.col("ad_id") == JUNE_1)
    assert of_june["title"].to_list() == ["A", "A", "B"]
    assert creatives["creative_id"].n_unique() == creatives.height
    blank = creatives.filter(pl.col("creative_id") == f"{MARCH_1}-01")
    assert blank["title"].to_list() == [None]


def test_a_story_has_the_time_of_its_last_test(upworthy, tmp_path):
    import_upworthy(upworthy, tmp_path / "out")
    times = dict(
        pl.read_parquet(tmp_path / "out" / "impressions.parquet")
        .group_by("ad_id")
        .agg(pl.col("request_ts").unique().dt.strftime("%Y-%m-%d"))
        .iter_rows()
    )
    # June and March share the image i1; no image at all connects nothing.
    assert times == {
        JUNE_1: ["2014-03-01"],
        MARCH_1: ["2014-03-01"],
        APRIL_1: ["2014-04-01"],
    }


def test_what_is_not_ours_is_not_replaced(upworthy, tmp_path):
    import_upworthy(upworthy, tmp_path / "out")
    import_upworthy(upworthy, tmp_path / "out")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="out_directory"):
        import_upworthy(upworthy, tmp_path / "home")
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_an_absent_source_is_told(tmp_path):
    with pytest.raises(InputError, match=r"exploratory_packages\.parquet.*readable"):
        import_upworthy(tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match=r"all\.csv\.gz.*readable"):
        import_open_bandit(tmp_path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def bandit(tmp_path):
    items = "item_id,item_feature_0,item_feature_1\n0,0.5,a\n1,-0.5,b\n"
    head = "timestamp,item_id,position,click,propensity_score,user_feature_0,extra_0\n"
    logs = {
        "random": [(0, 1, 0, 0.5), (1, 2, 1, 0.5)],
        "bts": [(0, 1, 0, 0.8), (0, 1, 1, 0.2), (1, 1, 0, 0.2), (1, 2, 0, 0.9)],
    }
    for policy, rows in logs.items():
        folder = tmp_path / "source" / policy / "all"
        folder.mkdir(parents=True)
        pl.read_csv(items.encode()).write_csv(
            folder / "item_context.csv.gz", compression="gzip"
        )
        lines = [
            f"2019-11-24 00:00:{second:02d}.5+00:00,{item},{place},{click},{p},u,0.0"
            for second, (item, place, click, p) in enumerate(rows)
        ]
        (folder / "all.csv.gz").write_bytes(
            gzip.compress((head + "\n".join(lines)).encode())
        )
    return tmp_path / "source"


def test_open_bandit_is_two_datasets_over_one_catalogue(bandit, tmp_path):
    counts = import_open_bandit(bandit, tmp_path / "out")
    assert counts == {
        "ads": 2,
        "creatives": 4,
        "random_rows": 2,
        "random_clicks": 1,
        "bts_rows": 4,
        "bts_clicks": 1,
    }
    for policy in ("random", "bts"):
        dataset = read_dataset(tmp_path / "out" / policy)
        assert dataset.tables["ads"] == str(tmp_path / "out" / "ads.parquet")
        entities = read_entities(dataset, tmp_path)
        assert entities.creatives["creative_id"].to_pylist() == [
            "all-1-item0",
            "all-1-item1",
            "all-2-item0",
            "all-2-item1",
        ]
    rows = pl.read_parquet(tmp_path / "out" / "random" / "impressions.parquet")
    assert rows["ad_id"].to_list() == ["all-1", "all-2"]
    assert rows["creative_id"].to_list() == ["all-1-item0", "all-2-item1"]
    assert rows["slot"].to_list() == [0, 1]
    assert rows["propensity"].to_list() == [0.5, 0.5]
    assert "extra_0" not in rows.columns


def test_the_thompson_policy_is_the_harmonic_mean_of_what_it_logged(bandit, tmp_path):
    import_open_bandit(bandit, tmp_path / "out")
    policy = dict(
        pl.read_parquet(tmp_path / "out" / "bts" / POLICY_FILE)
        .select("creative_id", "probability")
        .iter_rows()
    )
    item_0, item_1 = 2 / (1 / 0.8 + 1 / 0.2), 0.2
    assert policy == pytest.approx(
        {
            "all-1-item0": item_0 / (item_0 + item_1),
            "all-1-item1": item_1 / (item_0 + item_1),
            "all-2-item0": 0.0,
            "all-2-item1": 1.0,
        }
    )
