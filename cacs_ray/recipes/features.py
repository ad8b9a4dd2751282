"""The features stage: fit on the training window, encode all windows."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from cacs_ray.data.dataset import Dataset
from cacs_ray.data.logs import ValidatedLog
from cacs_ray.data.splits import Windows, split_windows
from cacs_ray.features.encode import ContentEncoder, EncodedOnce
from cacs_ray.features.fit import TrainingWindow, fit_features
from cacs_ray.features.store import AcceptedRows, write_store
from cacs_ray.recipes.config import CycleConfig
from cacs_ray.schema import Side


def encode_log(
    directory: Path,
    dataset: Dataset,
    validated: ValidatedLog,
    config: CycleConfig,
    encode: ContentEncoder,
) -> tuple[dict[str, int], Windows]:
    """Write the encoded log of a run.

    Args:
        directory: an empty one.
        dataset: what is declared.
        validated: the accepted rows.
        config: how to split and to fit.
        encode: encodes texts and images.

    Returns:
        Rows by window, and the windows.
    """
    windows = split_windows(validated.summary, config.split)
    files = [str(path) for path in validated.impression_files]
    entities: Mapping[Side, pa.Table] = {
        "creative": validated.creatives,
        "ad": validated.ads,
        "user": validated.users,
    }
    content = EncodedOnce(encode)
    fitted = fit_features(
        dataset.features,
        dataset.shared_vocabularies,
        entities,
        TrainingWindow(files, *windows.train),
        config.features,
        content,
    )
    bounds = {name: getattr(windows, name) for name in ("train", "validation", "test")}
    accepted = AcceptedRows(files, bounds)
    return write_store(directory, fitted, entities, accepted, content), windows
