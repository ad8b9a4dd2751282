"""What the checks share: the services that they ask, started when first needed."""

import secrets
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from cacs_ray.promises.service import NEVER_CROWDED, Plan, Service, serving


class Bench:
    """Starts each graph once, and ends them all when it is left."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._stack = ExitStack()
        self._services: dict[bool, Service] = {}
        # Raw rows and decision logs of runs into the same directory keep apart.
        self._run = secrets.token_hex(3)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def plain(self) -> Service:
        """Return the service as it is shipped."""
        return self._service(is_faulty=False)

    def faulty(self) -> Service:
        """Return the service whose stages can be told to fail.

        It spares no stage that is slow: what is shown is the fault.
        """
        return self._service(is_faulty=True)

    def name(self, part: str) -> str:
        """Return how the ids of one run's requests begin."""
        return f"{self._run}-{part}"

    def _service(self, *, is_faulty: bool) -> Service:
        if is_faulty not in self._services:
            name = "faulty" if is_faulty else "service"
            self._services[is_faulty] = self._stack.enter_context(
                serving(
                    self.plan,
                    name,
                    is_faulty=is_faulty,
                    args=NEVER_CROWDED if is_faulty else {},
                )
            )
        return self._services[is_faulty]
