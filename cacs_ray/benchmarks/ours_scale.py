"""The student on some simulated nodes of one processor each.

python -m cacs_ray.benchmarks.ours_scale ENCODED OUT NUM_WORKERS

Expects the variables of `cluster.local_environment`, for the loopback address alone.
"""

import sys
import threading
import time
from pathlib import Path

from cacs_ray.benchmarks.child import tell
from cacs_ray.benchmarks.nodes import simulated_nodes
from cacs_ray.benchmarks.training import Contestant
from cacs_ray.features.store import open_fitted
from cacs_ray.training.stage import Launch, StageInput, TrainResult, run_stage
from cacs_ray.training.student import StudentStage

_IDLE_S = 3.0


def loopback_bytes() -> int:
    """Return the bytes that the loopback interface has carried since boot."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    raise RuntimeError("/proc/net/dev knows no loopback interface")


class _Steps:
    """Bytes and time at the first and the last step that is reported."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, int]] = []

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        if "train/loss" in metrics:
            self.seen.append((step, time.perf_counter(), loopback_bytes()))


def train(inputs: StageInput, out: Path, num_workers: int) -> dict[str, object]:
    """Train the student for two passes on the cluster at hand.

    Returns:
        Rows per second in the loop, bytes per step beyond an idle cluster's, and
        the metrics of validation.
    """
    side = Contestant(inputs, "student")
    loop = side.loop.override(
        {"num_epochs": 2, "num_threads": 1, "report_every_steps": 5, "patience": 0}
    )
    config = side.stage.config.model_copy(update={"loop": loop})
    assert isinstance(side.stage, StudentStage)
    stage = StudentStage(inputs, config, None)  # type: ignore[arg-type]
    time.sleep(_IDLE_S)  # the nodes have just introduced themselves
    idle = loopback_bytes()
    time.sleep(_IDLE_S)
    idle_bytes_per_s = (loopback_bytes() - idle) / _IDLE_S
    steps = _Steps()
    launch = Launch(out, num_workers, steps, cpus_per_worker=1.0, max_failures=0)
    result = run_stage(stage, launch)
    (first, began, before), (last, ended, after) = steps.seen[0], steps.seen[-1]
    moved = after - before - idle_bytes_per_s * (ended - began)
    return _said(result, moved / max(1, last - first))


def _said(result: TrainResult, bytes_per_step: float) -> dict[str, object]:
    validation = {
        name: value
        for name, value in result.metrics.items()
        if name.startswith("validation/")
    }
    return {
        "rows_per_second": result.rows_per_second,
        "bytes_per_step": bytes_per_step,
        "metrics": validation,
    }


def main() -> None:
    """Start the nodes, train on them in a thread, say what came out."""
    directory, out, num_workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    fitted = open_fitted(directory)
    counts = {name: v.counts for name, v in fitted.vocabularies.items()}
    inputs = StageInput(directory, fitted.spec, counts)
    said: dict[str, object] = {}
    with simulated_nodes(num_workers):
        thread = threading.Thread(
            target=lambda: said.update(train(inputs, out, num_workers))
        )
        thread.start()
        thread.join()
    if not said:
        raise SystemExit("training failed; see above")
    tell(said)


if __name__ == "__main__":
    main()
