"""Ray Data over items that a task each can work on, such as the files of a log."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import ray
import ray.data
from ray.data._internal.execution.resource_manager import ResourceManager

_MOST_BLOCKS: Final = 256
_MOST_WOKEN: Final = 16
_LIMITS_EVERY_S: Final = 0.1
"""A pipeline learns of the cluster's processors when it looks for the second time;
until then it runs one task at a time. Ray's own interval is a second."""


def map_items(
    items: Sequence[dict[str, Any]], function: Callable[[pa.Table], Iterator[pa.Table]]
) -> ray.data.Dataset:
    """Map items by a generator, spread over the cluster; lazily, order not kept.

    Args:
        items: at least one, with equal keys.
        function: gets some items as rows; what it closes over is sent with it.
    """
    # Not a part of Ray's interface: where it is gone, pipelines only start slower.
    if hasattr(ResourceManager, "GLOBAL_LIMITS_UPDATE_INTERVAL_S"):
        ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S = _LIMITS_EVERY_S  # type: ignore[assignment]
    blocks = min(len(items), _MOST_BLOCKS)
    return ray.data.from_items(list(items), override_num_blocks=blocks).map_batches(
        function, batch_format="pyarrow", batch_size=None
    )


def wake(
    num_items: int, as_is: Callable[[pa.Table], Iterator[pa.Table]]
) -> list[ray.ObjectRef[None]]:
    """Start what a first pipeline waits for: Ray Data here and in the workers.

    Args:
        num_items: of the pipeline that is to come; no more workers are woken.
        as_is: gives back what it gets, and stands in the module to be imported.

    Returns:
        What to wait for until the workers have imported it; with one processor
        nothing is woken, which would only be in the way.
    """
    num_cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    if num_cpus < 2:
        return []
    import_it = ray.remote(num_cpus=1)(_import)
    # One processor is left to the pipeline, which would else warn that it has none.
    woken = [
        import_it.remote(as_is)
        for _ in range(min(num_cpus - 1, num_items - 1, _MOST_WOKEN))
    ]
    map_items([{"item": 0}], as_is).materialize()
    return woken


def _import(_: Callable[[pa.Table], Iterator[pa.Table]]) -> None:
    """Have imported the module of an argument, and Ray Data with this one."""
