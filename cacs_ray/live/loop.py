"""One closed loop: an arm on a market, day after day, learning from its own log.

    logs/               the loop's dataset: the first log, then what it showed itself
    run/                its cycle; checked and encoded files are used again
    day-NN/decisions/   the decision log of a day, clicks/ beside it
    day-NN/joined/      both joined: a dataset of the day
    day-NN/bundle/      the release of its end, where the gate let it pass
    day-NN/day.json     the figures of a day that is done

Nothing of a loop is read by another; what is done is not done again. The champion is
named by `day.json` and not by the registry: sixty copies of a bundle would cost more
than the trainings. The gate is the registry's own (`evaluation.gate.judge`).
"""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cacs_ray.bundle import Predictor, read_profile
from cacs_ray.data.dataset import Dataset, read_dataset
from cacs_ray.data.files import atomic_directory, write_json, write_table
from cacs_ray.evaluation.gate import judge
from cacs_ray.evaluation.report import plain_report
from cacs_ray.features.store import AcceptedRows, open_encoded, write_store
from cacs_ray.live.day import decide_day, draw_clicks, requests_of
from cacs_ray.live.figures import day_figures
from cacs_ray.live.market import IMPRESSIONS, LAST_TRAINED, LiveSeed
from cacs_ray.live.plan import Arm
from cacs_ray.recipes.cycle import Cycle
from cacs_ray.recipes.feedback import join_logs
from cacs_ray.recipes.report import Judged
from cacs_ray.recipes.report import judge as judged_report
from cacs_ray.recipes.score import score_log
from cacs_ray.study.kept import is_kept, kept

log = logging.getLogger(__name__)

ATTRIBUTION_S: Final = 1800.0
FIRST: Final = "first"
"""Name of the champion that all loops start with."""
_PART: Final = "part-00000.parquet"

Outcome = dict[str, Any]
"""`figures` of `live.figures.day_figures`; `served`, `champion`: days whose release
served and serves next; `is_promoted`, `reason`; `clicks` as drawn, `joined` rows."""


@dataclass(frozen=True)
class Loop:
    """An arm on one market."""

    name: str
    arm: Arm
    of: LiveSeed
    root: Path

    def play(self) -> Iterator[tuple[int, Outcome, bool]]:
        """Yield each day with its outcome, and whether it was done before."""
        champion = FIRST
        for day in self.of.days:
            file = self.directory(day) / "day.json"
            made_from = {**self._made_from, "served": champion}
            is_old = is_kept(file, made_from)
            outcome: Outcome = kept(file, made_from, lambda: self._day(day, champion))  # noqa: B023
            if not is_old:
                self._drop_scratch(day)
            champion = outcome["champion"]
            yield day, outcome, is_old

    def directory(self, day: int) -> Path:
        """Return where a day stands."""
        return self.root / f"day-{day:02d}"

    @property
    def logs(self) -> Path:
        """The loop's own dataset."""
        return self.root / "logs"

    @property
    def _made_from(self) -> dict[str, Any]:
        return {"arm": self.arm.settings.model_dump(mode="json")}

    def _bundle(self, champion: str) -> Path:
        if champion == FIRST:
            return self.of.first_bundle()
        return self.root / champion / "bundle"

    def _day(self, day: int, served: str) -> Outcome:
        """Serve, log, join, retrain, gate; promote where it passes."""
        champion, place = self._bundle(served), self.directory(day)
        self.of.begin_log(self.logs)
        self.of.know(self.logs, day)
        dataset = read_dataset(self.logs)
        today = self.of.as_of(Predictor.load(champion), dataset, place / "rejects")
        requests = requests_of(self.of.market, day)
        decisions = decide_day(today, requests, self.arm.settings)
        clicks = draw_clicks(self.of.market, day, decisions)
        write_table(place / "decisions" / _PART, decisions)
        write_table(place / "clicks" / _PART, clicks)
        joined = self._join(day)
        cycle = self._retrain(champion)
        verdict = self._judge(cycle, champion, place / "gate")
        if verdict["passed"]:
            with atomic_directory(place / "bundle") as partial:
                shutil.copytree(cycle.out / "bundle", partial, dirs_exist_ok=True)
        return {
            "figures": day_figures(self.of.market, day, decisions),
            "served": served,
            "champion": place.name if verdict["passed"] else served,
            "is_promoted": verdict["passed"],
            "reason": verdict["reason"],
            "clicks": clicks.num_rows,
            "joined": joined,
        }

    def _join(self, day: int) -> int:
        """Join the day's decisions with its clicks, and let the log grow by them."""
        place = self.directory(day)
        counts = join_logs(
            str(place / "decisions"),
            str(place / "clicks"),
            place / "joined",
            window_s=ATTRIBUTION_S,
            dataset=self.logs,
        )
        with atomic_directory(place / "grown") as grown:
            file = grown / f"day-{day:02d}-part-000.parquet"
            shutil.copyfile(place / "joined" / IMPRESSIONS / _PART, file)
        file = place / "grown" / f"day-{day:02d}-part-000.parquet"
        file.replace(self.logs / IMPRESSIONS / file.name)
        return int(str(counts["impressions"]))

    def _retrain(self, champion: Path) -> Cycle:
        """Go on from the champion's models over the grown log."""
        cycle = self.of.cycle(read_dataset(self.logs), self.root / "run")
        cycle.validate()
        cycle.go_on_from(champion.absolute())
        cycle.run_until(LAST_TRAINED)
        return cycle

    def _judge(self, cycle: Cycle, champion: Path, work: Path) -> dict[str, Any]:
        """Let the gate compare both on the last rows, which neither has learnt from."""
        dataset, window = cycle.dataset, cycle.windows.test
        bundle, settings = cycle.out / "bundle", self.of.config.evaluation
        judged = Judged(dataset, cycle.validated, window, read_profile(bundle))

        def judged_on(one: Predictor, store: Path) -> dict[str, Any]:
            rows = open_encoded(store, "test")
            return judged_report(one, rows, judged, settings, score_log(one, rows))

        challenger = judged_on(Predictor.load(bundle), cycle.work / "features")
        rival = self._as_of_log(champion, dataset, work)
        with atomic_directory(work / "store") as store:
            files = [str(file) for file in cycle.validated.impression_files]
            entities = {
                "creative": cycle.validated.creatives,
                "ad": cycle.validated.ads,
                "user": cycle.validated.users,
            }
            rows = AcceptedRows(files, {"test": window})
            write_store(store, rival.fitted, entities, rows, cycle.content)  # type: ignore[arg-type]
        reports = (challenger, judged_on(rival, work / "store"))
        verdict = judge(*(plain_report(one) for one in reports))
        write_json(work / "verdict.json", plain_report(verdict))
        return verdict

    def _as_of_log(self, champion: Path, dataset: Dataset, work: Path) -> Predictor:
        return self.of.as_of(Predictor.load(champion), dataset, work / "rejects")

    def _drop_scratch(self, day: int) -> None:
        """Remove what a day needed only until it was done."""
        for name in ("joined", "grown", "gate/store"):
            shutil.rmtree(self.directory(day) / name, ignore_errors=True)
