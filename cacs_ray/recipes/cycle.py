"""The whole walk, from a log to a bundle and its report.

validate, features, teacher, soft labels, student, ranker, bundle, evaluate: each
stage is one method, and what it made is one directory.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cacs_ray.bundle import Predictor
from cacs_ray.bundling import write_bundle
from cacs_ray.cluster import start_ray
from cacs_ray.data.dataset import Dataset, read_dataset
from cacs_ray.data.logs import REJECTS, VALIDATED, ValidatedLog, validate_log
from cacs_ray.data.splits import Windows
from cacs_ray.errors import InputError
from cacs_ray.features.store import open_encoded, open_fitted
from cacs_ray.manifest import read_manifest, verify_bundle
from cacs_ray.recipes.config import CycleConfig
from cacs_ray.recipes.content import DatasetContent, require_encoders
from cacs_ray.recipes.earlier import keep_earlier
from cacs_ray.recipes.features import FeatureInput, encode_log
from cacs_ray.recipes.parts import bundle_parts
from cacs_ray.recipes.progress import training_progress
from cacs_ray.recipes.record import (
    by_group,
    kept_figures,
    record_outcome,
    record_start,
    run_key,
)
from cacs_ray.recipes.report import report_cycle
from cacs_ray.recipes.score import calibrate
from cacs_ray.recipes.stages import LAST_STAGE, STAGES, Stages
from cacs_ray.tracking.client import NullTracker, Run, Tracker
from cacs_ray.training.joint import SELECTOR, train_jointly
from cacs_ray.training.ranker import (
    RankerStage,
    ServingRankerConfig,
    train_ranker,
)
from cacs_ray.training.soft_labels import write_soft_labels
from cacs_ray.training.stage import Launch, StageInput, TrainResult
from cacs_ray.training.student import SoftLabelFiles, StudentConfig, train_student
from cacs_ray.training.teacher import TeacherConfig, train_teacher
from cacs_ray.training.warm import Earlier


def run_cycle(  # noqa: PLR0913 - one name for each option of the job
    logs: str | Path,
    out: str | Path,
    config: CycleConfig,
    *,
    recipe: str = "own",
    until: str = LAST_STAGE,
    warm_start: str | Path | None = None,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Run every stage that is not done yet, from logs to a bundle and its report.

    Args:
        logs: a contract dataset.
        out: the run's directory; `bundle/`, `report.json`, `report.html`,
            `model_card.md` and `rejects/` are for the user, `work/` is for resuming.
        config: every number of the run.
        recipe: what `config` is called, for people.
        until: the last stage to run, a name in `STAGES`.
        warm_start: a bundle whose models are gone on from; it may be the one in
            `out`, from the day before.
        tracking_uri: MLflow; None for `MLFLOW_TRACKING_URI` or `mlruns/` here.

    Returns:
        Where things are and, after the last stage, the headline figures, for the
        job's last line.

    Raises:
        InputError: the dataset, its log or the configuration breaks a rule. A
            refused log leaves `out` as it was, but for its `rejects/` when there
            are too many.
    """
    dataset = read_dataset(logs)
    require_encoders(dataset, config.features)
    root = Path(out).absolute()
    spool = root / "work" / "tracking"
    # Tables cut names at the end: what differs comes first.
    name = f"{root.name}: {recipe} cycle in {root.parent.name}"
    tags = {"stage": "cycle", "recipe": recipe}
    cycle = Cycle(dataset, root, config)
    if warm_start is not None:
        verify_bundle(Path(warm_start))
    with start_ray():
        # First of all, so that a log that is refused leaves no run and no spool.
        cycle.validate()
        if warm_start is not None:
            cycle.go_on_from(Path(warm_start).absolute())
        key = run_key(root / "work", dataset.root, config)
        with (
            Tracker.open(tracking_uri, dataset.root.name or "dataset", spool) as own,
            own.run(name, tags=tags, key=key) as run,
        ):
            record_start(run, config, root / "work")
            cycle.report_to(run)
            cycle.run_until(until)
            reached = {"stage": until, "directory": str(cycle.directory(until))}
            if until != LAST_STAGE:
                return {"out": str(root), **reached}
            return {"out": str(root), **reached, **record_outcome(cycle, own, recipe)}


class Cycle:
    """One run over one dataset: the stages, in order.

    Args:
        dataset: what to learn from.
        out: the run's directory.
        config: every number.

    Raises:
        InputError: no declared feature tells creatives apart.
    """

    def __init__(self, dataset: Dataset, out: Path, config: CycleConfig) -> None:
        if not dataset.fields("creative", "ad"):
            raise InputError(
                "nothing tells creatives apart; declare a feature of creative, "
                "like {name: creative_id, of: creative, kind: id}",
                source=dataset.path,
                field="features",
                rule="creative_feature",
            )
        self.dataset, self.out, self.config = dataset, out, config
        self.work = out / "work"
        self.earlier: Path | None = None
        self.run = NullTracker().start_run("cycle")
        self.stages = Stages(self.work, self.run, STAGES)
        self.content = DatasetContent(self.work / "content", dataset.root)

    def go_on_from(self, bundle: Path) -> None:
        """Start every model from those of an earlier bundle.

        Raises:
            InputError: it is not a whole bundle.
        """
        self.earlier = keep_earlier(bundle, self.work / "earlier", self.digest)

    @property
    def warm_started_from(self) -> str | None:
        """Id of the bundle that models are gone on from, or None."""
        if self.earlier is None:
            return None
        return str(read_manifest(self.earlier)["bundle_id"])

    def report_to(self, run: Run) -> None:
        """Tell MLflow of the validated log, and of the stages from now on.

        Args:
            run: the parent run.
        """
        self.run = self.stages.run = run
        source = self.dataset.root
        run.dataset(source.name, source=str(source), digest=self.digest)
        self.stages.tell("validate")

    def run_until(self, last: str) -> None:
        """Run the stages up to and including one; those that are done are reused."""
        steps: Mapping[str, Callable[[], None]] = {
            "validate": self.validate,
            "features": self.encode,
            "teacher": self.train_teacher,
            "soft_labels": self.write_soft_labels,
            "student": self.train_student,
            "ranker": self.train_ranker,
            "bundle": self.make_bundle,
            "evaluate": self.evaluate,
        }
        for name in STAGES:
            if name not in self.stages.summaries:
                steps[name]()
            if name == last:
                return

    def directory(self, stage: str) -> Path:
        """Return where to look for what a stage made."""
        for_the_user = {
            "validate": self.out / "validated",
            "bundle": self.out / "bundle",
            "evaluate": self.out,
        }
        return for_the_user.get(stage, self.work / stage)

    @cached_property
    def digest(self) -> str:
        """Digest of the dataset when the run began; it reads every file."""
        return self.dataset.digest

    @cached_property
    def validated(self) -> ValidatedLog:
        """The accepted rows, once they are there."""
        return ValidatedLog.open(self.out)

    @property
    def windows(self) -> Windows:
        """Training, validation and test, by time."""
        return Windows.model_validate(self.stages.summaries["features"]["windows"])

    def validate(self) -> None:
        """Check every row; `validated/` and `rejects/` stand in the run itself."""

        def body(_: Path, __: Run) -> dict[str, Any]:
            self.validated = validate_log(
                self.dataset,
                self.out,
                max_reject_share=self.config.max_reject_share,
                kept=self.work / "checked",
            )
            rows = self.validated.summary.rows
            return {
                "read": rows.read,
                "accepted": rows.accepted,
                "rejected": rows.rejected,
            }

        made_from = {"dataset": self.digest, "share": self.config.max_reject_share}
        leaves = (self.out / VALIDATED, self.out / REJECTS)
        self.stages.stage("validate", made_from, body, leaves=leaves)

    def encode(self) -> None:
        """Fit features on the training window and encode all windows."""

        def body(directory: Path, run: Run) -> dict[str, Any]:
            rows, windows = encode_log(
                directory,
                FeatureInput(
                    self.dataset,
                    self.validated,
                    self.config,
                    self.content,
                    self.work / "encoded",
                ),
            )
            run.metrics({f"data/{name}_rows": count for name, count in rows.items()})
            return {**rows, "windows": windows.model_dump()}

        made_from = {
            "features": self.config.features.model_dump(),
            "split": self.config.split.model_dump(),
        }
        self.stages.stage("features", made_from, body, after=("validate",))

    @property
    def inputs(self) -> StageInput:
        """What every training stage reads."""
        fitted = open_fitted(self.work / "features")
        counts = {name: v.counts for name, v in fitted.vocabularies.items()}
        earlier = Earlier.open(self.earlier, fitted) if self.earlier else None
        encoded = str(self.work / "features")
        return StageInput(encoded, fitted.spec, counts, earlier=earlier)

    def train_teacher(self) -> None:
        """Stage 1: the ranker with all features."""
        self._train(
            "teacher",
            self.config.teacher,
            lambda launch: train_teacher(self.inputs, self.config.teacher, launch),
            after=("features",),
        )

    @property
    def soft_labels(self) -> SoftLabelFiles:
        """The teacher's logits of every logged list."""
        directory = self.work / "soft_labels"
        return SoftLabelFiles(directory / "train.npy", directory / "validation.npy")

    def write_soft_labels(self) -> None:
        """Stage 2: the teacher scores every creative of every logged list."""

        def body(directory: Path, _: Run) -> dict[str, Any]:
            for window in ("train", "validation"):
                write_soft_labels(
                    self.inputs,
                    self.work / "teacher",
                    window,
                    directory / f"{window}.npy",
                    num_tasks=self.config.training.soft_label_tasks,
                )
            return {}

        self.stages.stage("soft_labels", {}, body, after=("teacher",))

    def train_student(self) -> None:
        """Stage 3: the selector, from clicks and soft labels."""
        self._train(
            "student",
            self.config.student,
            lambda launch: train_student(
                self.inputs, self.config.student, self.soft_labels, launch
            ),
            after=("soft_labels",),
        )

    def train_ranker(self) -> None:
        """Stage 4: the serving ranker, fed with the selector's vectors."""
        config = self.config.ranker
        models = {
            "student_dir": self.work / "student",
            "teacher_dir": self.work / "teacher",
        }

        def train(launch: Launch) -> TrainResult:
            if config.model.sharing != "joint":
                return train_ranker(self.inputs, config, launch, **models)
            stage = RankerStage(self.inputs, config, **models)
            return train_jointly(stage, self.config.student, self.soft_labels, launch)

        self._train("ranker", config, train, after=("teacher", "student"))

    @property
    def selector_directory(self) -> Path:
        """Where the selector stands that the ranker reads."""
        is_joint = self.config.ranker.model.sharing == "joint"
        return self.work / "ranker" / SELECTOR if is_joint else self.work / "student"

    def _train(
        self,
        name: str,
        config: TeacherConfig | StudentConfig | ServingRankerConfig,
        train: Callable[[Launch], TrainResult],
        *,
        after: tuple[str, ...],
    ) -> None:
        checkpoints = self.work / "checkpoints" / name
        loop, numbers = config.loop, config.model_dump()
        earlier = self.warm_started_from
        made_from = numbers if earlier is None else {**numbers, "earlier": earlier}

        def body(directory: Path, run: Run) -> dict[str, Any]:
            num_rows = self.stages.summaries["features"]["train"]
            steps = loop.steps_per_epoch(num_rows)
            num_rows *= loop.num_passes(num_rows)
            with training_progress(name, loop.num_epochs, num_rows, steps) as show:

                def tell(step: int, metrics: dict[str, float]) -> None:
                    run.metrics(by_group(metrics), step=step)
                    show(step, metrics)

                run.params(made_from)
                launch = Launch(
                    out_dir=directory,
                    num_workers=self.config.training.num_workers,
                    on_metrics=tell,
                    checkpoint_dir=checkpoints,
                    cpus_per_worker=self.config.training.cpus_per_worker,
                )
                result = train(launch)
            # Scratch of Ray Train; what counts was written by the stage itself.
            shutil.rmtree(directory / "ray_train", ignore_errors=True)
            return kept_figures(result)

        self.stages.stage(name, made_from, body, after=after)
        shutil.rmtree(checkpoints, ignore_errors=True)

    def make_bundle(self) -> None:
        """Put together what serving needs; calibrate the ranker."""

        def body(directory: Path, run: Run) -> dict[str, Any]:
            parts = bundle_parts(self)
            write_bundle(directory / "raw", parts)
            predictor = Predictor.load(directory / "raw", is_verified=True)
            validation = open_encoded(self.work / "features", "validation")
            calibration = calibrate(predictor, validation)
            bundle_id = write_bundle(
                self.out / "bundle", replace(parts, calibration=calibration)
            )
            shutil.rmtree(directory / "raw")
            run.tags({"bundle_id": bundle_id})
            return {
                "bundle_id": bundle_id,
                "calibration_slope": calibration.slope,
                "calibration_intercept": calibration.intercept,
            }

        made_from = {"config": self.config.model_dump(mode="json")}
        leaves = (self.out / "bundle" / "manifest.json",)
        self.stages.stage("bundle", made_from, body, after=("ranker",), leaves=leaves)

    def evaluate(self) -> None:
        """Open the bundle as serving does, and judge it."""
        report_cycle(self)
