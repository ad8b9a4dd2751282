"""Stage 2: the teacher scores every creative of every logged (request, ad).

Creatives that were never shown are scored too: that is what the log itself cannot
say. The scores are one float32 array per window, [N, C], 0 at padding, written
aside and renamed; rows are cut into the same blocks however many tasks share
them, so the array does not depend on the number of tasks.
"""

import itertools
import os
from pathlib import Path

import numpy as np
import torch

from cacs_ray.features.batch import EncodedLog
from cacs_ray.models.ranker import Ranker
from cacs_ray.models.saved import load_ranker
from cacs_ray.training.stage import StageInput

BLOCK = 4096
"""Rows scored at once."""


def write_soft_labels(
    inputs: StageInput,
    teacher_dir: Path,
    window: str,
    out_file: Path,
    *,
    num_tasks: int = 0,
) -> Path:
    """Write the teacher's logits of one window, position left out.

    Args:
        inputs: the encoded log and its spec.
        teacher_dir: what `train_teacher` left.
        window: `train` or `validation`.
        out_file: the .npy file to make, float32 [N, C].
        num_tasks: Ray tasks that share the rows; 0 scores in this process.

    Returns:
        `out_file`; open it with `open_soft_labels`.
    """
    log = inputs.open_log(inputs.encoded_dir, window)
    partial = out_file.with_name(f".{out_file.name}.partial-{os.getpid()}")
    out_file.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(log), log.lists.shape[1])
    try:
        # Open for the header: the file gets its full size before it is filled.
        np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        if num_tasks == 0:
            _fill(inputs, teacher_dir, window, partial, (0, len(log)))
        else:
            _fill_by_tasks(inputs, teacher_dir, window, partial, num_tasks)
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


def _fill(
    inputs: StageInput,
    teacher_dir: Path,
    window: str,
    file: Path,
    bounds: tuple[int, int],
) -> None:
    """Score the rows [start, end) into the file."""
    teacher = load_ranker(teacher_dir, inputs.spec, inputs.counts)
    log = inputs.open_log(inputs.encoded_dir, window)
    labels = np.lib.format.open_memmap(file, mode="r+")
    start, end = bounds
    for first in range(start, end, BLOCK):
        rows = np.arange(first, min(first + BLOCK, end))
        labels[rows[0] : rows[-1] + 1] = score_lists(teacher, log, rows)
    labels.flush()


def _fill_by_tasks(
    inputs: StageInput, teacher_dir: Path, window: str, file: Path, num_tasks: int
) -> None:
    import ray

    num_rows = len(inputs.open_log(inputs.encoded_dir, window))
    num_blocks = -(-num_rows // BLOCK)
    edges = [round(i * num_blocks / num_tasks) * BLOCK for i in range(num_tasks + 1)]
    task = ray.remote(num_cpus=1)(_fill)
    shared = ray.put(inputs)
    ray.get(
        [
            task.remote(shared, teacher_dir, window, file, (start, min(end, num_rows)))
            for start, end in itertools.pairwise(edges)
            if start < end
        ]
    )
