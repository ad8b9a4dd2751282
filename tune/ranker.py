"""Search the serving ranker: sharing, gate, widths and rates; one MLflow run a trial.

python -m tune.ranker --logs market --work run --out sweep --trials 24
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ray import tune
from torch import Tensor

from cacs_ray.command import run_job
from cacs_ray.features.batch import Batch, EncodedLog
from cacs_ray.models.embeddings import gather_rows
from cacs_ray.models.ranker import READS_VECTORS, Ranker
from cacs_ray.models.saved import load_ranker, load_selector
from cacs_ray.recipes.cycle import Cycle
from cacs_ray.study.scoring import ranker_scores, score_lists
from cacs_ray.training.joint import SELECTOR, stage_of
from cacs_ray.training.ranker import RankerStage, ServingRankerConfig, log_vectors
from cacs_ray.training.stage import Stage
from cacs_ray.training.student import SoftLabelFiles, StudentConfig
from tune.judge import Judgement, judgement
from tune.search import Space, run_search, search_parser
from tune.sweep import Values

SPACE: Space = {
    "model.sharing": tune.choice(["frozen", "fine_tuned", "joint"]),
    "model.dim": tune.choice([8, 16, 32]),
    "model.blank_share": tune.uniform(0.02, 0.3),
    "model.gate.kind": tune.choice(["none", "fixed", "frequency", "learnt"]),
    "model.gate.rate": tune.uniform(0.05, 0.7),
    "model.gate.half_impressions": tune.loguniform(3.0, 300.0),
    "model.gate.kl_weight": tune.loguniform(1e-3, 1.0),
    "loop.learning_rate": tune.loguniform(1e-4, 1e-2),
    "loop.embedding_learning_rate": tune.loguniform(0.05, 1.0),
    "negative_weight": tune.loguniform(0.1, 1.0),
}
"""Fields of `ServingRankerConfig`; the table in docs/tuning.md says what each does."""


@dataclass(frozen=True, slots=True)
class RankerSearch:
    """Serving rankers on one teacher and one student."""

    base: RankerStage
    student: StudentConfig
    """The selector's losses, for a ranker that is trained together with it."""
    soft_labels: SoftLabelFiles

    @property
    def config(self) -> ServingRankerConfig:
        """What is searched around."""
        return self.base.config

    @property
    def space(self) -> Space:
        """Where to search."""
        return SPACE

    def stage(self, values: Values) -> Stage:
        """Return the stage of one trial, with or without the selector in it."""
        own = replace(self.base, config=self.config.override(dict(values)))
        return stage_of(own, self.student, self.soft_labels)

    def judge(self, directory: Path, log: EncodedLog) -> Judgement:
        """Judge a saved ranker, fed by the selector that belongs to it."""
        spec = self.base.inputs.spec
        ranker, vectors = load_ranker(directory, spec), None
        if ranker.config.sharing in READS_VECTORS:
            own = directory / SELECTOR
            is_joint = ranker.config.sharing == "joint"
            place = own if is_joint else self.base.student_dir
            vectors = log_vectors(load_selector(place, spec), log)
        return judgement(log, *score_lists(log, partial(_scores, ranker, vectors)))


def _scores(
    ranker: Ranker, vectors: Tensor | None, batch: Batch
) -> tuple[Tensor, Tensor]:
    """Score a batch with the vectors of a whole catalogue."""
    of_batch = None if vectors is None else gather_rows(vectors, batch.catalogue_rows)
    return ranker_scores(ranker, batch, of_batch)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, sweep, print the best values as one line of JSON."""
    return run_job(search_parser(__doc__, "ranker"), sweep, argv)


def sweep(args: argparse.Namespace) -> dict[str, object]:
    """Run or resume the sweep that the options describe."""
    return run_search(args, "ranker", prepare)


def prepare(cycle: Cycle) -> RankerSearch:
    """Make sure that teacher, soft labels and student exist; all trials share them."""
    cycle.encode()
    cycle.train_teacher()
    cycle.write_soft_labels()
    cycle.train_student()
    # A trial has one processor.
    config = cycle.config.ranker.override({"loop.num_threads": 1})
    base = RankerStage(
        cycle.inputs, config, cycle.work / "student", cycle.work / "teacher"
    )
    return RankerSearch(base, cycle.config.student, cycle.soft_labels)


if __name__ == "__main__":
    sys.exit(main())
