"""Every number of a run, and the named recipes that set them.

A recipe is a function that returns one complete configuration; `--set` changes a
field of it. Defaults were chosen on the simulated market, see docs/results.md.
"""

from collections.abc import Callable, Mapping

from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.data.splits import SplitSettings
from cacs_ray.errors import InputError
from cacs_ray.evaluation.offline import EvaluationSettings
from cacs_ray.features.fit import FeatureConfig
from cacs_ray.models.adaptive_dropout import GateConfig
from cacs_ray.models.ranker import RankerConfig
from cacs_ray.models.selector import SelectorConfig
from cacs_ray.training.optimizer import LoopConfig
from cacs_ray.training.ranker import ServingRankerConfig
from cacs_ray.training.student import StudentConfig
from cacs_ray.training.teacher import TeacherConfig


class TrainingConfig(Config):
    """Where models are trained."""

    num_workers: int = Field(ge=0)
    """Ray Train workers that share every batch; 0 trains in the job's process."""
    cpus_per_worker: float = Field(gt=0)
    soft_label_tasks: int = Field(ge=0)
    """Ray tasks that score the soft labels; 0 scores in the job's process."""


class CycleConfig(Config):
    """One whole run: from a log to a bundle and its report."""

    max_reject_share: float = Field(ge=0, le=1)
    """A log with more bad rows than this stops the run."""
    split: SplitSettings
    features: FeatureConfig
    training: TrainingConfig
    teacher: TeacherConfig
    student: StudentConfig
    ranker: ServingRankerConfig
    evaluation: EvaluationSettings


def _gate(kind: str) -> GateConfig:
    return GateConfig.model_validate(
        {
            "kind": kind,
            "rate": 0.3,
            "half_impressions": 30.0,
            "relaxation": 0.5,
            "kl_weight": 0.02,
            "cold_share": None,
        }
    )


def _loop(num_epochs: int, learning_rate: float) -> LoopConfig:
    return LoopConfig(
        num_epochs=num_epochs,
        batch_size=4096,
        min_steps_per_epoch=50,
        learning_rate=learning_rate,
        embedding_learning_rate=0.4,
        embedding_doubt=3.0,
        embedding_forgetting=1.0,
        precision=1.0,
        schedule="cosine",
        num_warmup_steps=50,
        # Every epoch after the best one is memory of the training days.
        patience=1,
        seed=0,
        num_threads=2,
        report_every_steps=20,
        checkpoint_every_steps=0,
    )


def _ranker(sharing: str) -> RankerConfig:
    return RankerConfig.model_validate(
        {
            "dim": 16,
            "content_dim": 32,
            "hidden": 64,
            "interaction_dim": 32,
            "num_cross_layers": 2,
            "cross_rank": 16,
            "num_slots": 16,
            "blank_share": 0.0 if sharing == "own" else 0.1,
            "sharing": sharing,
            "keeps_own_fields": False,
            "gate": _gate("none" if sharing == "own" else "frequency"),
        }
    )


def small() -> CycleConfig:
    """For logs of about half a million impressions, on one machine."""
    return CycleConfig(
        max_reject_share=0.05,
        split=SplitSettings(),
        features=FeatureConfig(),
        training=TrainingConfig(num_workers=1, cpus_per_worker=0.5, soft_label_tasks=2),
        teacher=TeacherConfig(
            model=_ranker("own"), loop=_loop(6, 2e-3), listwise_click_weight=None
        ),
        student=StudentConfig(
            model=SelectorConfig(
                dim=16,
                content_dim=32,
                hidden=64,
                vector_size=32,
                num_slots=16,
                gate=_gate("learnt"),
            ),
            loop=_loop(6, 2e-3),
            distillation="listwise",
            distillation_weight=1.0,
            click_weight=1.0,
            listwise_click_weight=None,
            temperature=1.0,
        ),
        ranker=ServingRankerConfig(
            model=_ranker("frozen"), loop=_loop(2, 1e-3), is_warm_started=True
        ),
        evaluation=EvaluationSettings(),
    )


def smoke() -> CycleConfig:
    """For seconds: the same walk with short training, all in one process."""
    return small().override(
        {
            "training.num_workers": 0,
            "training.soft_label_tasks": 0,
            "teacher.loop.num_epochs": 2,
            "student.loop.num_epochs": 2,
            "ranker.loop.num_epochs": 1,
            "teacher.loop.batch_size": 512,
            "student.loop.batch_size": 512,
            "ranker.loop.batch_size": 512,
            "evaluation.replicates": 200,
        }
    )


def live() -> CycleConfig:
    """For the closed loop on a small market: short training, once a day.

    All but the last rows are learnt from: a new creative must not wait for days
    until the models have seen it.
    """
    return smoke().override(
        {
            "split.by": "rows",
            "split.validation_share": 0.06,
            "split.test_share": 0.06,
            "features.text_encoder": "hashed-ngrams",
            # Its models are so small that a second thread would mostly wait.
            "teacher.loop.num_threads": 1,
            "student.loop.num_threads": 1,
            "ranker.loop.num_threads": 1,
        }
    )


def large() -> CycleConfig:
    """For tens of millions of impressions: bigger batches, several workers."""
    return small().override(
        {
            # A sentence encoder takes a second for a hundred texts of a processor.
            "features.text_encoder": "hashed-ngrams",
            "training.num_workers": 2,
            "training.cpus_per_worker": 1.0,
            "training.soft_label_tasks": 8,
            "teacher.loop.num_epochs": 2,
            "student.loop.num_epochs": 2,
            "ranker.loop.num_epochs": 1,
            "teacher.loop.batch_size": 8192,
            "student.loop.batch_size": 8192,
            "ranker.loop.batch_size": 8192,
            "teacher.loop.checkpoint_every_steps": 500,
            "student.loop.checkpoint_every_steps": 500,
            "ranker.loop.checkpoint_every_steps": 500,
        }
    )


RECIPES: Mapping[str, Callable[[], CycleConfig]] = {
    "smoke": smoke,
    "live": live,
    "small": small,
    "large": large,
}


def run_config(recipe: str) -> CycleConfig:
    """Return a recipe's configuration.

    Raises:
        InputError: there is no such recipe.
    """
    if recipe not in RECIPES:
        raise InputError(
            f"no recipe {recipe!r}; known: {sorted(RECIPES)}",
            source="--recipe",
            rule="known_recipe",
        )
    return RECIPES[recipe]()
