"""The features stage: fit on the training window, encode all windows."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars
import pyarrow as pa

from cacs_ray import __version__
from cacs_ray.data.dataset import Dataset
from cacs_ray.data.files import atomic_directory
from cacs_ray.data.logs import ValidatedLog
from cacs_ray.data.splits import Windows, split_windows
from cacs_ray.features.encode import ContentEncoder, EncodedOnce
from cacs_ray.features.fit import TrainingWindow, fit_features
from cacs_ray.features.kept import FittedFeatures
from cacs_ray.features.numbering import LearntFrom, Numbering
from cacs_ray.features.shards import file_digest
from cacs_ray.features.store import AcceptedRows, write_store
from cacs_ray.recipes.config import CycleConfig
from cacs_ray.schema import Column, Side

_NUMBERING: Final = "numbering"
_SHARDS: Final = "shards"
_COUNTS: Final = "counts"


@dataclass(frozen=True, slots=True)
class FeatureInput:
    """What the features stage reads."""

    dataset: Dataset
    validated: ValidatedLog
    config: CycleConfig
    content: ContentEncoder
    kept: Path
    """Directory of what can be used again when the log has grown."""

    @property
    def entities(self) -> dict[Side, pa.Table]:
        """Accepted creatives, ads and users."""
        return {
            "creative": self.validated.creatives,
            "ad": self.validated.ads,
            "user": self.validated.users,
        }

    def learnt_from(self, files: Sequence[str], windows: Windows) -> LearntFrom:
        """Say what a numbering is made from."""
        declared = [f.model_dump(mode="json") for f in self.dataset.features]
        settings = {
            "version": [__version__, polars.__version__],
            "features": self.config.features.model_dump(mode="json"),
            "split": self.config.split.model_dump(mode="json"),
            "declared": declared,
            "shared": [list(group) for group in self.dataset.shared_vocabularies],
        }
        digests = [file_digest(path) for path in files]
        return LearntFrom(settings, digests, *windows.train)


def encode_log(directory: Path, given: FeatureInput) -> tuple[dict[str, int], Windows]:
    """Write the encoded log of a run.

    Where the log has grown since it was encoded before, known users, ads, creatives
    and values keep their numbers, and only new files are encoded.

    Args:
        directory: an empty one.
        given: what it is made from.

    Returns:
        Rows by window, and the windows.
    """
    windows = split_windows(given.validated.summary, given.config.split)
    files = [str(path) for path in given.validated.impression_files]
    learnt_from = given.learnt_from(files, windows)
    entities, fitted, content = _fitted(given, files, learnt_from)
    with atomic_directory(given.kept / _NUMBERING) as numbering:
        user_ids = entities["user"][Column.USER_ID].combine_chunks()
        Numbering(fitted, user_ids).write(numbering, learnt_from)
    bounds = {name: getattr(windows, name) for name in ("train", "validation", "test")}
    accepted = AcceptedRows(files, bounds, given.kept / _SHARDS)
    return write_store(directory, fitted, entities, accepted, content), windows


def _fitted(
    given: FeatureInput,
    files: Sequence[str],
    learnt_from: LearntFrom,
) -> tuple[dict[Side, pa.Table], FittedFeatures, ContentEncoder]:
    """Fit; with the numbers of before where they hold, else with new ones."""
    window = TrainingWindow(
        files, learnt_from.start_us, learnt_from.end_us, given.kept / _COUNTS
    )

    def fit(
        tables: dict[Side, pa.Table],
    ) -> tuple[dict[Side, pa.Table], FittedFeatures, ContentEncoder]:
        content = EncodedOnce(given.content)
        fitted = fit_features(
            given.dataset.features,
            given.dataset.shared_vocabularies,
            tables,
            window,
            given.config.features,
            content,
        )
        return tables, fitted, content

    before = Numbering.open(given.kept / _NUMBERING, learnt_from)
    entities = given.entities
    if before and (ordered := before.order(entities)):
        tables, fresh, content = fit(ordered)
        if fitted := before.continued(fresh):
            return tables, fitted, content
    # Other numbers: no shard of before means the same.
    shutil.rmtree(given.kept / _NUMBERING, ignore_errors=True)
    shutil.rmtree(given.kept / _SHARDS, ignore_errors=True)
    return fit(entities)
