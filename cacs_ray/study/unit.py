"""One unit of a study: a source with a seed, from its log to every variant's figures.

    units/SOURCE-seedN/market/      the simulated log, of markets
    units/SOURCE-seedN/run/         a whole cycle of the full method
    units/SOURCE-seedN/window.npz   the judged window
    units/SOURCE-seedN/policies.json, cascade.json, variants/*.json, rankers/*.json

What is there is used again, so a study that was killed goes on where it stopped.
"""

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cacs_ray.bundle import Predictor
from cacs_ray.data.dataset import Dataset, read_dataset
from cacs_ray.recipes.config import CycleConfig
from cacs_ray.recipes.content import DatasetContent
from cacs_ray.recipes.cycle import Cycle
from cacs_ray.recipes.stages import LAST_STAGE
from cacs_ray.recipes.truth import find_market
from cacs_ray.simulation.export import write_market
from cacs_ray.simulation.recipes import MarketRecipe
from cacs_ray.study.cascade import cascade_figures
from cacs_ray.study.figures import Figures, chosen_calibration, policy_figures
from cacs_ray.study.kept import claim, kept, refuse_other
from cacs_ray.study.plan import SourceName
from cacs_ray.study.rankers import RankerInputs
from cacs_ray.study.variant import SharedInputs
from cacs_ray.study.window import JudgedWindow, judged_window
from cacs_ray.tracking.client import Run

log = logging.getLogger(__name__)

BASELINES = ("random", "popular", "thompson", "teacher")
"""Policies that no variant of the selector changes."""
_CLAIM = "unit.json"


@dataclass(frozen=True)
class Unit:
    """Where a unit stands, and what it is made from."""

    source: SourceName
    seed: int
    root: Path
    config: CycleConfig
    """Of the cycle, with this seed."""
    logs: Path | None = None
    """The dataset of the source `logs`."""
    market: MarketRecipe | None = None
    """The recipe of the other sources."""
    content: Path | None = None
    """Cache of encoded texts and images that units share."""

    @property
    def name(self) -> str:
        """Unique in a study."""
        return f"{self.source}-seed{self.seed}"

    @property
    def cycle(self) -> Cycle:
        """The unit's cycle, with all its stages known."""
        cycle = Cycle(self.dataset, self.root / "run", self.config)
        if self.content is not None:
            cycle.content = DatasetContent(self.content, self.dataset.root)
        return cycle

    @cached_property
    def dataset(self) -> Dataset:
        """The log, simulated when it is first asked for."""
        if self.logs is not None:
            return read_dataset(self.logs)
        place = self.root / "market"
        if not (place / "dataset.yaml").is_file():
            assert self.market is not None
            log.info("%s: simulating", self.name)
            write_market(self.market, place, seed=self.seed)
        return read_dataset(place)

    @property
    def _made_from(self) -> dict[str, Any]:
        """What decides every figure of the unit."""
        return {
            "cycle": self.config.model_dump(mode="json"),
            "market": self.market and self.market.model_dump(mode="json"),
            "logs": None if self.logs is None else self.dataset.digest,
        }

    def refuse_other_settings(self) -> None:
        """Refuse to go on with other settings before anything is written.

        Raises:
            InputError: the unit was begun with other settings.
        """
        refuse_other(self.root / _CLAIM, self._made_from, str(self.root))

    def prepare(self, run: Run) -> tuple[SharedInputs, RankerInputs]:
        """Run the cycle of the full method and keep what the variants share.

        Raises:
            InputError: the unit was begun with other settings.
        """
        claim(self.root / _CLAIM, self._made_from, str(self.root))
        cycle = self.cycle
        cycle.validate()
        cycle.report_to(run)
        cycle.run_until(LAST_STAGE)
        window = self.root / "window.npz"
        if not window.is_file():
            judged_window(cycle).save(window)
        one_thread = {"loop.num_threads": 1}
        variants, rankers = self.root / "variants", self.root / "rankers"
        variants.mkdir(exist_ok=True)
        rankers.mkdir(exist_ok=True)
        return (
            SharedInputs(
                cycle.inputs,
                cycle.soft_labels,
                cycle.config.student.override(one_thread),
                window,
                variants,
            ),
            RankerInputs(
                cycle.inputs,
                cycle.config.ranker.override(one_thread),
                cycle.work / "student",
                cycle.work / "teacher",
                window,
                rankers,
                cycle.config.student.override(one_thread),
                cycle.soft_labels,
            ),
        )

    def baselines(self) -> dict[str, Figures]:
        """Value the policies that no variant changes."""
        figures: dict[str, Figures] = kept(
            self.root / "policies.json", {}, self._baselines
        )
        return figures

    def _baselines(self) -> dict[str, Figures]:
        window = JudgedWindow.load(self.root / "window.npz")
        names = (*BASELINES, "cacs")
        found = {name: policy_figures(window, name) for name in names}
        if window.true_ctr is not None:
            own = chosen_calibration(window)
            found["cacs"] |= {f"ranker/{name}": one for name, one in own.items()}
        return found

    def cascade(self) -> dict[str, Any] | None:
        """Play the market's next day in every order; None without a market."""
        market = find_market(self.dataset.root)
        if market is None:
            return None
        figures: dict[str, Any] = kept(
            self.root / "cascade.json",
            {},
            lambda: cascade_figures(
                Predictor.load(self.root / "run" / "bundle"), market, seed=self.seed
            ),
        )
        return figures
