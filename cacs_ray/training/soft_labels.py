"""Stage 2: the teacher scores every creative of every logged (request, ad).

Creatives that were never shown are scored too: that is what the log itself cannot
say. The scores are one float32 array per window, [N, C], 0 at padding, written
aside and renamed; rows are cut into the same blocks however many tasks share
them, so the array does not depend on the number of tasks.
"""

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from cacs_ray.features.batch import EncodedLog
from cacs_ray.models.ranker import Ranker
from cacs_ray.models.saved import load_ranker
from cacs_ray.training.stage import StageInput


def write_soft_labels(
    inputs: StageInput,
    teacher_dir: Path,
    window: str,
    out_file: Path,
    *,
    num_tasks: int = 0,
    rows_at_once: int = 4096,
) -> Path:
    """Write the teacher's logits of one window, position left out.

    Args:
        inputs: the encoded log and its spec.
        teacher_dir: what `train_teacher` left.
        window: `train` or `validation`.
        out_file: the .npy file to make, float32 [N, C].
        num_tasks: Ray tasks that share the rows; 0 scores in this process.
        rows_at_once: rows of one block, > 0.

    Returns:
        `out_file`; open it with `open_soft_labels`.
    """
    log = inputs.open_log(inputs.encoded_dir, window)
    partial = out_file.with_name(f".{out_file.name}.partial-{os.getpid()}")
    out_file.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(log), log.lists.shape[1])
    edges = _edges(len(log), rows_at_once, max(1, num_tasks))
    work = _Work(inputs, teacher_dir, window, partial, rows_at_once)
    try:
        # Opened for the header: the file gets its full size before it is filled.
        np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        if num_tasks == 0:
            _fill(work, *edges[0])
        else:
            _fill_by_tasks(work, edges)
        os.replace(partial, out_file)
    finally:
        partial.unlink(missing_ok=True)
    return out_file


def open_soft_labels(file: Path) -> np.ndarray:
    """Open what `write_soft_labels` wrote, memory-mapped."""
    labels: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    return labels


@torch.inference_mode()
def score_lists(teacher: Ranker, log: EncodedLog, rows: np.ndarray) -> np.ndarray:
    """Return the teacher's logits of whole lists: float32 [rows, C], 0 = padding."""
    batch = log.batch(rows)
    logits = teacher(batch.context, batch.creatives, batch.creative_index)
    scores = np.zeros((len(rows), log.lists.shape[1]), np.float32)
    masked = logits.masked_fill(~batch.creative_mask, 0.0)
    scores[:, : masked.shape[1]] = masked.numpy()
    return scores


@dataclass(frozen=True, slots=True)
class _Work:
    """What every task needs to know."""

    inputs: StageInput
    teacher_dir: Path
    window: str
    file: Path
    rows_at_once: int


def _edges(num_rows: int, rows_at_once: int, num_tasks: int) -> list[tuple[int, int]]:
    """Cut rows into ranges of whole blocks, one a task; a range may be empty.

    >>> _edges(10, 4, 2)
    [(0, 8), (8, 10)]
    """
    num_blocks = -(-num_rows // rows_at_once)
    cuts = [-(-i * num_blocks // num_tasks) * rows_at_once for i in range(num_tasks)]
    return list(pairwise([*cuts, num_rows]))


def _fill(work: _Work, start: int, end: int) -> None:
    """Score the rows [start, end) into the file."""
    teacher = load_ranker(work.teacher_dir, work.inputs.spec)
    log = work.inputs.open_log(work.inputs.encoded_dir, work.window)
    labels = np.lib.format.open_memmap(work.file, mode="r+")
    for first in range(start, end, work.rows_at_once):
        rows = np.arange(first, min(first + work.rows_at_once, end))
        labels[rows[0] : rows[-1] + 1] = score_lists(teacher, log, rows)
    labels.flush()


def _fill_by_tasks(work: _Work, edges: list[tuple[int, int]]) -> None:
    import ray

    task = ray.remote(num_cpus=1)(_fill)
    shared = ray.put(work)
    ray.get([task.remote(shared, *edge) for edge in edges if edge[0] < edge[1]])
