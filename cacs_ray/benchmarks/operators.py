"""Where the time of a step goes, operator by operator."""

from pathlib import Path
from typing import Final

import torch
from torch.profiler import ProfilerActivity, profile

from cacs_ray.benchmarks.child import NUM_CPUS
from cacs_ray.benchmarks.market import encoded
from cacs_ray.benchmarks.training import NUM_ROWS, Contestant
from cacs_ray.data.files import write_bytes
from cacs_ray.training.optimizer import make_optimizer

_NUM_STEPS: Final = 5
_NUM_OPERATORS: Final = 15


def write_profile(out: Path) -> Path:
    """Write the dearest operators of a teacher's and a student's steps.

    The batch is made inside the step, as the training loop does.

    Args:
        out: where the benchmarks keep things.

    Returns:
        `profile.md` there.
    """
    inputs = encoded(out, "small", NUM_ROWS)
    sides = (Contestant(inputs, "teacher"), Contestant(inputs, "student"))
    text = "\n".join(f"## {side.role}\n\n{_table(side)}\n" for side in sides)
    write_bytes(out / "profile.md", text.encode())
    return out / "profile.md"


def _table(side: Contestant) -> str:
    """Return the operators of some steps by their own time, as a code block."""
    torch.set_num_threads(NUM_CPUS)
    optimizer = make_optimizer(side.step, side.loop, len(side.rows))
    side.step.train()

    def take_step() -> None:
        batch = side.rows.batch(side.first_rows, torch.device("cpu"))
        loss = side.step(batch)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    take_step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(_NUM_STEPS):
            take_step()
    table = seen.key_averages().table("self_cpu_time_total", row_limit=_NUM_OPERATORS)
    return f"```\n{table}\n```"
