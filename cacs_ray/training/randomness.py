"""Randomness of a run, which depends on its seed and step alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from cacs_ray.training.optimizer import LoopConfig


@contextmanager
def own_randomness(config: LoopConfig) -> Iterator[None]:
    """Leave the caller's generator and threads as they were."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            torch.set_num_threads(num_threads)


def step_seed(seed: int, step: int) -> int:
    """Return the seed of a step, the same on every worker."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    return int(state[0])
