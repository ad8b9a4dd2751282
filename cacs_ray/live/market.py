"""One seed of a comparison: its market, its first log, and the release all start from.

market/         the simulated log with its truth; no stage of training opens it
first/          the first log as a dataset, and the cycle that learnt from it
oracle/*.json   what the oracle gets on each day
"""

import logging
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from cacs_ray.bundle import Predictor
from cacs_ray.data.dataset import Dataset, read_dataset, write_dataset
from cacs_ray.data.entities import read_entities
from cacs_ray.data.files import atomic_directory, write_table
from cacs_ray.errors import InputError
from cacs_ray.live.day import decide_by_truth, known_tables
from cacs_ray.live.figures import Figures, day_figures
from cacs_ray.recipes.config import CycleConfig
from cacs_ray.recipes.content import DatasetContent
from cacs_ray.recipes.cycle import Cycle
from cacs_ray.simulation.export import TRUTH, write_market
from cacs_ray.simulation.market import Market
from cacs_ray.simulation.observed import declared_features
from cacs_ray.simulation.recipes import MarketRecipe
from cacs_ray.study.kept import claim, kept, refuse_other

log = logging.getLogger(__name__)

IMPRESSIONS: Final = "impressions"
LAST_TRAINED: Final = "bundle"
"""The stage that a retraining ends with; the gate judges by itself."""
_CLAIM: Final = "seed.json"


@dataclass(frozen=True)
class LiveSeed:
    """A market and what all its loops have in common."""

    seed: int
    root: Path
    config: CycleConfig
    """Of every cycle, with this seed."""
    recipe: MarketRecipe
    content: Path
    """Cache of encoded texts that seeds share."""

    @property
    def days(self) -> range:
        """The days that are played, as the market counts."""
        first = self.recipe.traffic.num_days
        return range(first, first + self.recipe.traffic.num_later_days)

    def refuse_other_settings(self) -> None:
        """Refuse to go on with other settings before anything is written.

        Raises:
            InputError: the seed was begun with other settings, or the recipe has
                pictures, whose paths a grown dataset would lose.
        """
        if self.recipe.has_pictures:
            raise InputError(
                "a market with pictures cannot be played on",
                source="--recipe",
                rule="no_pictures",
            )
        refuse_other(self.root / _CLAIM, self._made_from, str(self.root))

    @cached_property
    def market(self) -> Market:
        """The truth, drawn when it is first asked for.

        Raises:
            InputError: as `refuse_other_settings`.
        """
        self.refuse_other_settings()
        claim(self.root / _CLAIM, self._made_from, str(self.root))
        place = self.root / "market"
        if not (place / TRUTH).is_dir():
            log.info("seed %d: simulating", self.seed)
            write_market(self.recipe, place, seed=self.seed)
        return Market.load(place / TRUTH)

    @property
    def _made_from(self) -> dict[str, Any]:
        return {
            "cycle": self.config.model_dump(mode="json"),
            "market": self.recipe.model_dump(mode="json"),
        }

    def begin_log(self, place: Path) -> None:
        """Start a dataset with the first log, unless it stands there."""
        if place.is_dir():
            return
        with atomic_directory(place) as directory:
            shutil.copytree(self.root / "market" / IMPRESSIONS, directory / IMPRESSIONS)
            self.know(directory, self.days[0] - 1)
            write_dataset(
                directory,
                tables={
                    IMPRESSIONS: f"{IMPRESSIONS}/",
                    **{n: f"{n}.parquet" for n in ("creatives", "ads", "users")},
                },
                features=declared_features(self.market),
                shared_vocabularies=[["recent_categories", "category"]],
            )

    def know(self, place: Path, day: int) -> None:
        """Write the entity tables of a dataset as they are known on a day."""
        for name, table in known_tables(self.market, day).items():
            write_table(place / f"{name}.parquet", table)

    def cycle(self, dataset: Dataset, out: Path) -> Cycle:
        """Return a cycle over a dataset; texts are encoded once for all."""
        cycle = Cycle(dataset, out, self.config)
        cycle.content = DatasetContent(self.content, dataset.root)
        return cycle

    def first_bundle(self) -> Path:
        """Train the release that all loops start with; reused when it is there."""
        place = self.root / "first"
        bundle = place / "run" / "bundle"
        if not (bundle / "manifest.json").is_file():
            self.begin_log(place / "logs")
            cycle = self.cycle(read_dataset(place / "logs"), place / "run")
            cycle.validate()
            cycle.run_until(LAST_TRAINED)
        return bundle

    def as_of(self, predictor: Predictor, dataset: Dataset, rejects: Path) -> Predictor:
        """Return a release over the entities that a dataset has now, as a refresh does.

        Raises:
            RuntimeError: an entity is rejected; the market writes none that is wrong.
        """
        with atomic_directory(rejects) as place:
            entities = read_entities(dataset, place)
        bad = sum(one.rejected for one in entities.counts.values())
        if bad:
            raise RuntimeError(f"{bad} entities of the market are rejected")
        return predictor.with_entities(
            {
                "creative": entities.creatives,
                "ad": entities.ads,
                "user": entities.users,
            },
            DatasetContent(self.content, dataset.root),
        )

    def oracle(self, day: int) -> Figures:
        """Value what the oracle decides on a day; reused when it is there."""
        figures: Figures = kept(
            self.root / "oracle" / f"day-{day:02d}.json",
            {},
            lambda: self._oracle(day),
        )
        return figures

    def _oracle(self, day: int) -> dict[str, Any]:
        place = self.root / "oracle" / "logs"
        self.begin_log(place)
        self.know(place, day)
        predictor = self.as_of(
            Predictor.load(self.first_bundle()),
            read_dataset(place),
            self.root / "oracle" / "rejects",
        )
        decisions = decide_by_truth(predictor, self.market, day)
        return day_figures(self.market, day, decisions)
