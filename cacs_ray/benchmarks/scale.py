"""One, two and four workers on simulated nodes: same metrics, bytes between them."""

import shutil
from typing import Final

from cacs_ray.benchmarks.child import run_module
from cacs_ray.benchmarks.market import encoded, market
from cacs_ray.benchmarks.outcome import Outcome, Settings, alone, at_most
from cacs_ray.benchmarks.training import NUM_ROWS, Contestant
from cacs_ray.cluster import local_environment

WORKERS: Final = (1, 2, 4)
_TOLERANCE: Final = 1e-3
_FLOAT_BYTES: Final = 4


def scale(settings: Settings) -> list[Outcome]:
    """Preprocess, and train the student, on each number of nodes once."""
    return [*_preprocessing(settings), *_training(settings)]


def _preprocessing(settings: Settings) -> list[Outcome]:
    """Validate, fit and encode on nodes of one processor, workers awake.

    The driver is a process beside them, so on a machine of two processors two nodes
    can be at most so much faster as its own work leaves room.
    """
    source = market(settings.out, "large", settings.rows)
    table, alone_s = [], 0.0
    for num_nodes in WORKERS:
        place = settings.out / "preprocessed" / f"{num_nodes} nodes"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        said = run_module(
            "cacs_ray.benchmarks.ours_preprocessing",
            str(source.described),
            str(place),
            str(num_nodes),
            "awake",
            "nodes",
            environment=local_environment(),
        ).said
        shutil.rmtree(place)
        seconds = float(said["seconds"])
        alone_s = alone_s or seconds
        what = f"preprocessing on {num_nodes} nodes, {settings.rows / 1e6:g} M"
        note = f"{alone_s / seconds:.2f} x one node"
        table.append(alone(what, [settings.rows / seconds], "rows/s", None, note))
    return table


def _training(settings: Settings) -> list[Outcome]:
    """Train the student on each number of workers; see `ours_scale`."""
    inputs = encoded(settings.out, "small", NUM_ROWS)
    said = {}
    for num_workers in WORKERS:
        place = settings.out / "trained" / f"{num_workers} workers"
        shutil.rmtree(place, ignore_errors=True)
        said[num_workers] = run_module(
            "cacs_ray.benchmarks.ours_scale",
            inputs.encoded_dir,
            str(place),
            str(num_workers),
            # Ray reads its switches when it is imported.
            environment=local_environment(),
        ).said
    step = Contestant(inputs, "student").step
    dense = _FLOAT_BYTES * sum(p.numel() for p in step.parameters())
    table = []
    for num_workers, one in said.items():
        what = f"student on {num_workers} nodes"
        table.append(alone(f"{what}: speed", [one["rows_per_second"]], "rows/s"))
        table.append(
            alone(
                f"{what}: exchanged",
                [one["bytes_per_step"] / 1e6],
                "MB/step",
                None,
                f"a dense gradient is {dense / 1e6:.1f} MB",
            )
        )
        difference = max(
            abs(value - said[1]["metrics"][name])
            for name, value in one["metrics"].items()
        )
        table.append(
            alone(
                f"{what}: largest difference of a validation metric to 1 node",
                [difference],
                "",
                at_most(_TOLERANCE),
            )
        )
    return table
