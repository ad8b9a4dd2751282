"""Search the selector: gate, widths, rates, temperature, weights; a run a trial.

python -m tune.student --logs market --work run --out sweep --trials 24
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ray import tune

from cacs_ray.command import run_job
from cacs_ray.features.batch import EncodedLog
from cacs_ray.models.saved import load_selector
from cacs_ray.recipes.cycle import Cycle
from cacs_ray.training.stage import Stage
from cacs_ray.training.student import StudentConfig, StudentStage
from tune.judge import Judgement, judge
from tune.search import Space, run_search, search_parser
from tune.sweep import Values

SPACE: Space = {
    "model.dim": tune.choice([8, 16, 32]),
    "loop.learning_rate": tune.loguniform(3e-4, 1e-2),
    "loop.embedding_learning_rate": tune.loguniform(0.05, 1.0),
    "model.gate.kind": tune.choice(["none", "fixed", "frequency", "learnt"]),
    "model.gate.rate": tune.uniform(0.05, 0.7),
    "model.gate.half_impressions": tune.loguniform(3.0, 300.0),
    "model.gate.kl_weight": tune.loguniform(1e-3, 1.0),
    "temperature": tune.loguniform(0.3, 5.0),
    "distillation_weight": tune.loguniform(0.1, 10.0),
    "negative_weight": tune.loguniform(0.1, 1.0),
}
"""Fields of `StudentConfig`; the table in docs/tuning.md says what each does."""


@dataclass(frozen=True, slots=True)
class StudentSearch:
    """Selectors on one teacher's soft labels."""

    base: StudentStage

    @property
    def config(self) -> StudentConfig:
        """What is searched around."""
        return self.base.config

    @property
    def space(self) -> Space:
        """Where to search."""
        return SPACE

    def stage(self, values: Values) -> Stage:
        """Return the stage of one trial."""
        return replace(self.base, config=self.config.override(dict(values)))

    def judge(self, directory: Path, log: EncodedLog) -> Judgement:
        """Judge a saved selector."""
        return judge(load_selector(directory, self.base.inputs.spec), log)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, sweep, print the best values as one line of JSON."""
    return run_job(search_parser(__doc__, "student"), sweep, argv)


def sweep(args: argparse.Namespace) -> dict[str, object]:
    """Run or resume the sweep that the options describe."""
    return run_search(args, "student", prepare)


def prepare(cycle: Cycle) -> StudentSearch:
    """Make sure that soft labels of a validated log exist; all trials share them."""
    cycle.encode()
    cycle.train_teacher()
    cycle.write_soft_labels()
    # A trial has one processor.
    config = cycle.config.student.override({"loop.num_threads": 1})
    return StudentSearch(StudentStage(cycle.inputs, config, cycle.soft_labels))


if __name__ == "__main__":
    sys.exit(main())
