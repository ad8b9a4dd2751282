"""dataset.yaml: what is right is understood, what is wrong is told in one line."""

import pyarrow as pa
import pytest

from cacs_ray.data.dataset import (
    ColumnSource,
    FeatureDeclaration,
    read_dataset,
    write_dataset,
)
from cacs_ray.errors import InputError

FEATURE = {"name": "price", "of": "ad", "kind": "number"}
TABLES = {"impressions": "i.parquet", "creatives": "c.parquet", "ads": "a.parquet"}


def test_the_small_log_is_understood(write_log):
    dataset = read_dataset(write_log())
    assert dataset.root == write_log.root
    assert dataset.tables["ads"] == str(write_log.root / "ads.parquet")
    assert [feature.name for feature in dataset.fields("ad", "creative")] == [
        "price",
        "look",
    ]
    assert [feature.column for feature in dataset.fields("ad")] == ["price"]


def test_the_yaml_itself_may_be_named(write_log):
    write_log()
    assert read_dataset(write_log.root / "dataset.yaml") == read_dataset(write_log.root)


def test_tables_may_stand_elsewhere(write_log):
    write_log()
    other = write_log.root / "yaml"
    other.mkdir()
    text = (write_log.root / "dataset.yaml").read_text()
    (other / "dataset.yaml").write_text(
        text.replace("ads.parquet", "../ads.parquet")
        .replace("impressions.parquet", f"file://{write_log.root}/impressions.parquet")
        .replace("creatives.parquet", str(write_log.root / "creatives.parquet"))
        .replace("users.parquet", f"file://{write_log.root}/users.parquet")
    )
    assert read_dataset(other).tables["ads"] == str(write_log.root / "ads.parquet")


def test_columns_are_renamed_by_table(write_log):
    rows = [{"pvid": "r1", "ts": 1_704_888_000, "ad_id": "hat", "creative_id": "wool"}]
    rows[0] |= {"slot": 0, "is_clicked": 1, "dev": "phone"}
    write_log(
        impressions=rows,
        description={
            "columns": {
                "impressions": {
                    "request_id": "pvid",
                    "request_ts": {"column": "ts", "unit": "s"},
                    "device": "dev",
                }
            }
        },
    )
    layout = read_dataset(write_log.root).layout("impressions")
    sources = {column.name: column.source for column in layout}
    assert sources["request_id"] == "pvid"
    assert sources["device"] == "dev"
    assert sources["ad_id"] == "ad_id"


def test_what_is_written_is_read_back(write_log):
    write_log()
    declared = read_dataset(write_log.root)
    sources = {"ads": {"price": ColumnSource(column="price")}}
    write_dataset(
        write_log.root,
        tables={name: f"{name}.parquet" for name in declared.tables},
        features=declared.features,
        shared_vocabularies=[["device", "user_id"]],
        columns=sources,
    )
    again = read_dataset(write_log.root)
    assert again.features == declared.features
    assert again.shared_vocabularies == (("device", "user_id"),)
    assert again.columns == sources


def test_the_digest_follows_content_and_not_place(write_log, tmp_path):
    import shutil

    digest = read_dataset(write_log()).digest
    copy = shutil.copytree(write_log.root, tmp_path / "copy")
    assert read_dataset(copy).digest == digest
    write_log(ads=[{"ad_id": "hat", "price": 9.6}, {"ad_id": "shoe", "price": 30.0}])
    assert read_dataset(write_log.root).digest != digest
    assert len(digest) <= 32


@pytest.mark.parametrize(
    ("keys", "field", "message"),
    [
        ({"version": 2}, "version", "must be 1"),
        ({"version": None}, "version", "is missing"),
        ({"featurs": []}, "featurs", "did you mean 'features'"),
        (
            {"features": [FEATURE | {"kin": "id"}]},
            "features[0].kin",
            "did you mean 'kind'",
        ),
        (
            {"features": [FEATURE | {"kind": "numbr"}]},
            "features[0].kind",
            "did you mean 'number'",
        ),
        ({"features": [FEATURE | {"of": "adds"}]}, "features[0].of", "mean 'ad'"),
        ({"features": [FEATURE, FEATURE]}, "features[1].name", "stands already"),
        ({"features": [{"name": "price", "of": "ad"}]}, "features[0].kind", "missing"),
        ({"features": "price"}, "features", "tuple"),
        (
            {"features": [FEATURE | {"name": "pric"}]},
            "ads.pric",
            "did you mean 'price'",
        ),
        (
            {"features": [{"name": "look", "of": "creative", "kind": "vector"}]},
            "features[0].size",
            "needs its size",
        ),
        ({"features": [FEATURE | {"size": 3}]}, "features[0].size", "has no size"),
        (
            {"features": [FEATURE | {"name": "is_clicked", "of": "request"}]},
            "features[0].column",
            "only after the decision",
        ),
        (
            {"features": [{"name": "look", "of": "creative", "kind": "number"}]},
            "creatives.look",
            "cannot be a number",
        ),
        (
            {"features": [FEATURE | {"kind": "vector", "size": 2}]},
            "ads.price",
            "cannot be a vector",
        ),
        ({"tables": TABLES | {"userz": "u"}}, "tables.userz", "did you mean 'users'"),
        (
            {"tables": {"impressions": "impressions.parquet"}},
            "tables.creatives",
            "is missing",
        ),
        (
            {
                "tables": {name: f"{name}.parquet" for name in TABLES},
                "features": [{"name": "age", "of": "user", "kind": "category"}],
            },
            "features[0].of",
            "tables.users is missing",
        ),
        ({"tables": TABLES | {"ads": "a\0b"}}, "tables.ads", "no path"),
        (
            {"shared_vocabularies": [["devic"]]},
            "shared_vocabularies[0][0]",
            "did you mean 'device'",
        ),
        (
            {"shared_vocabularies": [["device", "price"]]},
            "shared_vocabularies[0][1]",
            "is a number",
        ),
        (
            {"shared_vocabularies": [["device"], ["device"]]},
            "shared_vocabularies[1][0]",
            "shared twice",
        ),
        (
            {"columns": {"impressions": {"requestid": "pvid"}}},
            "columns.impressions.requestid",
            "did you mean 'request_id'",
        ),
        (
            {"columns": {"impression": {}}},
            "columns.impression",
            "did you mean 'impressions'",
        ),
        (
            {"columns": {"impressions": {"request_id": "requestid"}}},
            "impressions.request_id",
            "did you mean 'request_id'",
        ),
        (
            {
                "columns": {
                    "impressions": {"request_ts": {"column": "a", "unit": "sec"}}
                }
            },
            "columns.impressions.request_ts.unit",
            "did you mean 's'",
        ),
        (
            {"columns": {"impressions": {"request_ts": {"colum": "a"}}}},
            "columns.impressions.request_ts.colum",
            "did you mean 'column'",
        ),
    ],
)
def test_a_mistake_is_told_with_key_and_nearest_name(write_log, keys, field, message):
    write_log(description=keys)
    with pytest.raises(InputError) as caught:
        read_dataset(write_log.root)
    assert caught.value.field == field
    assert message in str(caught.value)
    assert caught.value.source
    assert caught.value.rule


def test_times_as_numbers_need_a_unit(write_log):
    rows = pa.table(
        {
            "request_id": ["r1"],
            "request_ts": [1_704_888_000],
            "ad_id": ["hat"],
            "creative_id": ["wool"],
            "slot": [0],
            "is_clicked": [True],
            "device": ["phone"],
        }
    )
    with pytest.raises(InputError, match=r"say their unit.*\[time_unit\]"):
        read_dataset(write_log(impressions=rows))


def test_a_required_column_that_no_file_has_is_told(write_log):
    rows = [{"ad": "hat", "price": 9.5}]
    with pytest.raises(InputError, match=r"no column 'ad_id', did you mean 'ad'\?"):
        read_dataset(write_log(ads=rows))


@pytest.mark.parametrize("text", ["", "- a", "a: [", "a: b: c", "!!python/name:os.x"])
def test_a_file_that_is_no_mapping_is_told(tmp_path, text):
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(InputError, match=r"dataset\.yaml.*\[readable\]"):
        read_dataset(tmp_path)


def test_an_absent_description_is_told(tmp_path):
    with pytest.raises(InputError, match=r"dataset\.yaml.*\[readable\]"):
        read_dataset(tmp_path / "nowhere")


def test_an_absent_table_is_told(write_log):
    write_log()
    (write_log.root / "ads.parquet").unlink()
    with pytest.raises(InputError, match=r"ads\.parquet: does not exist"):
        read_dataset(write_log.root)


def test_a_log_without_files_is_empty(write_log):
    write_log()
    (write_log.root / "impressions.parquet").unlink()
    (write_log.root / "impressions.parquet").mkdir()
    with pytest.raises(InputError, match=r"empty log: no files \[empty_log\]"):
        read_dataset(write_log.root)


def test_one_name_on_two_sides_is_two_features(write_log):
    both = [FEATURE | {"of": "ad"}, {"name": "price", "of": "request", "kind": "id"}]
    write_log(
        impressions=pa.table(
            {
                **{n: ["x"] for n in ("request_id", "ad_id", "creative_id")},
                "request_ts": ["2024-01-01"],
                "slot": [0],
                "is_clicked": [True],
                "price": ["a"],
            }
        ),
        description={"features": both},
    )
    assert len(read_dataset(write_log.root).features) == 2
    write_log.describe(features=both, shared_vocabularies=[["price"]])
    with pytest.raises(InputError, match="ambiguous"):
        read_dataset(write_log.root)


def test_a_feature_stands_in_its_own_column_unless_said_otherwise():
    named = FeatureDeclaration(name="price", of="ad", kind="number")
    moved = FeatureDeclaration(name="price", of="ad", kind="number", column="cost")
    assert (named.column, moved.column) == ("price", "cost")
