"""What a market written by Ray tasks promises."""

import pyarrow.parquet as pq
import pytest

from cacs_ray.simulation.export import write_market
from cacs_ray.simulation.recipes import RECIPES


@pytest.mark.parametrize("policy", ["uniform", "epsilon_greedy"])
def test_streamed_and_local_markets_are_the_same_rows(tmp_path, ray_local, policy):
    local = RECIPES["smoke"].override(
        {
            "logging.policy": policy,
            "traffic.num_impressions": 3_000,
            "traffic.num_days": 2,
            "traffic.part_impressions": 600,
        }
    )
    streamed = local.override({"is_streamed": True})
    counted = [
        write_market(recipe, tmp_path / name, seed=5)["impressions"]
        for name, recipe in (("local", local), ("streamed", streamed))
    ]
    here, there = tmp_path / "local/impressions", tmp_path / "streamed/impressions"
    names = sorted(file.name for file in here.iterdir())
    assert len(names) == 2 * 3
    assert names == sorted(file.name for file in there.iterdir())
    assert counted[0] == counted[1]
    assert all(pq.read_table(here / n).equals(pq.read_table(there / n)) for n in names)
