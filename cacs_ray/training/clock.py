"""Where the time of a step goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Seconds by part of a step, since this process began to train."""

    seconds: dict[str, float] = field(default_factory=dict)
    steps: int = 0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        started = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + passed

    def step_ms(self) -> dict[str, float]:
        """Return the mean milliseconds of a step by part; empty before the first."""
        if not self.steps:
            return {}
        return {n: 1000 * s / self.steps for n, s in sorted(self.seconds.items())}
