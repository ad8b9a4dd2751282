"""What a written dataset promises."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from cacs_ray.data.dataset import read_dataset
from cacs_ray.errors import InputError
from cacs_ray.simulation.export import write_market
from cacs_ray.simulation.market import Market
from cacs_ray.simulation.pictures import read_photo
from cacs_ray.simulation.recipes import RECIPES, market_recipe
from jobs.simulate import main

PICTURES = RECIPES["pictures"].override(
    {
        "population.num_users": 20,
        "population.num_ads": 6,
        "traffic.num_impressions": 400,
        "traffic.num_days": 2,
        "traffic.num_candidates": 6,
        "traffic.num_next_requests": 5,
    }
)


def digests(directory):
    """Digest of every file below a directory."""
    return {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory, tiny_recipe):
    out = tmp_path_factory.mktemp("markets") / "tiny"
    return out, write_market(tiny_recipe, out, seed=1)


def test_equal_seeds_write_equal_bytes(written, tiny_recipe, tmp_path):
    out, _ = written
    write_market(tiny_recipe, tmp_path / "again", seed=1)
    assert digests(out) == digests(tmp_path / "again")


def test_the_directory_is_a_dataset_of_the_contract(written):
    out, _ = written
    dataset = read_dataset(out)
    assert set(dataset.tables) == {"impressions", "creatives", "ads", "users"}
    assert dataset.shared_vocabularies == (("recent_categories", "category"),)


def test_the_result_counts_what_is_in_the_files(written):
    out, result = written
    log = pq.read_table(out / "impressions")
    assert result["impressions"] == len(log)
    assert result["ctr"] == pytest.approx(log["is_clicked"].to_numpy().mean())
    assert result["creatives"] == pq.read_metadata(out / "creatives.parquet").num_rows


def test_the_truth_lies_apart_and_knows_every_row(written):
    out, _ = written
    market = Market.load(out / "truth")
    log = pq.read_table(out / "impressions")
    p = market.click_probability(
        log["user_id"], log["ad_id"], log["creative_id"], log["slot"].to_numpy()
    )
    assert ((p > 0) & (p < 1)).all()
    assert market.requests.num_rows > 0


def test_content_tells_style_and_hides_residuals(tmp_path):
    recipe = RECIPES["smoke"].override({"traffic.num_impressions": 300})
    write_market(recipe, tmp_path / "m", seed=0)
    market = Market.load(tmp_path / "m" / "truth")
    vectors = pq.read_table(tmp_path / "m" / "creatives.parquet")["image_embedding"]
    known = np.array([v.is_valid for v in vectors])
    content = np.array([v.as_py() for v in vectors if v.is_valid])

    def explained(target):
        target = target[known]
        fitted, *_ = np.linalg.lstsq(content, target, rcond=None)
        return 1 - np.var(target - content @ fitted) / np.var(target)

    assert explained(market.creative_appeal) > 0.85
    assert explained(market.creative_residual) < 0.1


def test_some_cells_of_content_are_null(tmp_path, tiny_recipe):
    recipe = tiny_recipe.override({"population.missing_share": 0.5})
    write_market(recipe, tmp_path / "m", seed=0)
    creatives = pq.read_table(tmp_path / "m" / "creatives.parquet")
    share = creatives["title"].null_count / len(creatives)
    assert share == pytest.approx(0.5, abs=0.2)
    assert creatives["image_embedding"].null_count > 0


def test_pictures_are_written_where_the_creatives_say(tmp_path):
    out = tmp_path / "pictures"
    write_market(PICTURES, out, seed=0)
    creatives = pq.read_table(out / "creatives.parquet")
    paths = creatives["image"].drop_null().to_pylist()
    assert len(set(paths)) == len(paths) > 0
    assert {read_photo(out / path).size for path in paths} == {(160, 160)}
    kinds = {f.name: f.kind for f in read_dataset(out).features}
    assert kinds["image"] == "image"
    assert kinds["title"] == "text"


def test_a_directory_that_holds_something_is_left_alone(tmp_path, tiny_recipe):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="empty_out"):
        write_market(tiny_recipe, tmp_path, seed=0)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unknown_recipe_is_answered_with_the_names():
    with pytest.raises(InputError, match="smoke"):
        market_recipe("smoky")


def test_the_job_prints_where_the_market_is(tmp_path, capsys):
    options = ["--recipe", "smoke", "--logging", "epsilon_greedy", "--set"]
    changes = ["traffic.num_impressions=300", "population.num_ads=20"]
    code = main(["--out", str(tmp_path / "m"), *options, *changes])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (code, line["status"], line["ads"]) == (0, "ok", 20)
    log = pq.read_table(tmp_path / "m" / "impressions")
    assert set(log["policy"].to_pylist()) == {"epsilon_greedy"}


@pytest.mark.parametrize("change", ["traffic.num_day=3", "num_days", "seed=1"])
def test_a_wrong_setting_writes_nothing(tmp_path, capsys, change):
    assert main(["--out", str(tmp_path / "m"), "--set", change]) == 1
    assert json.loads(capsys.readouterr().out)["status"] == "error"
    assert list(tmp_path.iterdir()) == []
