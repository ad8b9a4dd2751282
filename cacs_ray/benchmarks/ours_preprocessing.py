"""Validate, fit and encode a dataset, timed from when Ray has started.

python -m cacs_ray.benchmarks.ours_preprocessing DATASET OUT NUM_CPUS [awake] [nodes]

With `awake` the clock starts when Ray's workers have imported their libraries as well;
with `nodes` every processor is a simulated node of its own.
"""

import sys
import time
from pathlib import Path

import ray

from cacs_ray.benchmarks.child import tell
from cacs_ray.benchmarks.nodes import simulated_nodes
from cacs_ray.cluster import start_ray
from cacs_ray.data.dataset import Dataset, read_dataset
from cacs_ray.data.logs import validate_log
from cacs_ray.data.parts import as_is
from cacs_ray.data.splits import split_windows
from cacs_ray.features.fit import FeatureConfig, TrainingWindow, fit_features
from cacs_ray.features.store import AcceptedRows, write_store
from cacs_ray.pipelines import wake
from cacs_ray.recipes.content import DatasetContent

WINDOWS = ("train", "validation", "test")


def preprocess(dataset: Dataset, out: Path) -> dict[str, object]:
    """Do what the first two stages of a cycle do, on the Ray at hand.

    Args:
        dataset: what to read.
        out: gets validated/, rejects/ and encoded/.

    Returns:
        Seconds by phase, and the rows.
    """
    started = time.perf_counter()
    validated = validate_log(dataset, out, max_reject_share=1.0)
    checked = time.perf_counter()
    windows = split_windows(validated.summary)
    files = [str(path) for path in validated.impression_files]
    content = DatasetContent(out / "content", dataset.root)
    entities = {
        "creative": validated.creatives,
        "ad": validated.ads,
        "user": validated.users,
    }
    fitted = fit_features(
        dataset.features,
        dataset.shared_vocabularies,
        entities,  # type: ignore[arg-type]
        TrainingWindow(files, *windows.train),
        FeatureConfig(),
        content,
    )
    known = time.perf_counter()
    encoded = out / "encoded"
    encoded.mkdir()
    bounds = {name: getattr(windows, name) for name in WINDOWS}
    rows = AcceptedRows(files, bounds)
    write_store(encoded, fitted, entities, rows, content)  # type: ignore[arg-type]
    ended = time.perf_counter()
    judged = validated.summary.rows
    return {
        "seconds": ended - started,
        "validate_s": checked - started,
        "fit_s": known - checked,
        "encode_s": ended - known,
        "accepted": judged.accepted,
        "rejected": judged.rejected_by_rule,
        "bounds": bounds,
    }


if __name__ == "__main__":
    described, out, num_cpus = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    nodes = simulated_nodes if "nodes" in sys.argv else start_ray
    with nodes(num_cpus):
        if "awake" in sys.argv:
            ray.get(wake(num_cpus, as_is))
        tell(preprocess(read_dataset(described), out))
