"""The logs that comparisons read: simulated once, kept, and encoded once."""

from dataclasses import dataclass
from pathlib import Path

from cacs_ray.benchmarks.child import run_module
from cacs_ray.data.dataset import read_dataset, write_dataset
from cacs_ray.data.files import atomic_directory
from cacs_ray.features.store import open_fitted
from cacs_ray.simulation.export import write_market
from cacs_ray.simulation.recipes import market_recipe
from cacs_ray.training.stage import StageInput

_OURS = "cacs_ray.benchmarks.ours_preprocessing"


@dataclass(frozen=True, slots=True)
class Market:
    """A simulated log, and its description without texts."""

    root: Path
    """The tables, as peers read them."""
    described: Path
    """Directory of a `dataset.yaml` that declares no text: an encoder of texts is
    no part of what is compared."""


def market(out: Path, recipe: str, num_impressions: int) -> Market:
    """Simulate a market, unless it is there.

    Args:
        out: where the benchmarks keep things.
        recipe: of the simulation.
        num_impressions: about so many; a market ends with a whole request.
    """
    root = (out / "markets" / f"{recipe}-{num_impressions}").absolute()
    if not root.exists():
        changed = market_recipe(recipe).override(
            {"traffic.num_impressions": num_impressions}
        )
        write_market(changed, root, seed=0)
    described = root.with_name(f"{root.name}-described")
    if not described.exists():
        dataset = read_dataset(root)
        with atomic_directory(described) as partial:
            write_dataset(
                partial,
                tables=dataset.tables,
                features=[f for f in dataset.features if f.kind != "text"],
                shared_vocabularies=dataset.shared_vocabularies,
            )
    return Market(root, described)


def encoded(out: Path, recipe: str, num_impressions: int) -> StageInput:
    """Encode a market, unless it is there, and open it for training."""
    place = (out / "encoded" / f"{recipe}-{num_impressions}").absolute()
    if not place.exists():
        source = market(out, recipe, num_impressions).described
        with atomic_directory(place) as partial:
            run_module(_OURS, str(source), str(partial), "3")
    directory = place / "encoded"
    fitted = open_fitted(directory)
    counts = {name: v.counts for name, v in fitted.vocabularies.items()}
    return StageInput(str(directory), fitted.spec, counts)
