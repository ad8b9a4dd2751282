"""The shadow: a release that decides what the live one decides, and answers nobody."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from serve.api import DecideRequest
from serve.decided import Decided
from serve.decision_log import RowLog
from serve.metrics import Metrics

MAX_RUNNING = 4
"""Shadow decisions at the same time; further ones are skipped and counted."""

_logger = logging.getLogger(__name__)


class Shadow:
    """Decides again, after the answer, with another release.

    Args:
        decide: decides a request by the shadow release; neither logs nor counts it.
        log: where its decisions go, apart from those that were answered.
        metrics: of the gateway.
    """

    def __init__(
        self,
        decide: Callable[[DecideRequest], Awaitable[Decided]],
        log: RowLog | None,
        metrics: Metrics,
    ) -> None:
        self._decide, self._log, self._metrics = decide, log, metrics
        self._running: set[asyncio.Task[None]] = set()

    def follow(self, request: DecideRequest, *, is_crowded: bool = False) -> None:
        """Decide a request as well, some time after this returns; not when crowded."""
        if is_crowded or len(self._running) >= MAX_RUNNING:
            self._metrics.shadows.labels("skipped").inc()
            return
        task = asyncio.create_task(self._run(request))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, request: DecideRequest) -> None:
        try:
            decided = await self._decide(request)
        except Exception:
            # Whatever a shadow does, it must not show.
            _logger.exception("the shadow failed")
            self._metrics.shadows.labels("failed").inc()
            return
        self._metrics.shadows.labels("decided").inc()
        if self._log is not None and len(decided):
            self._log.append(decided)

    async def drain(self) -> None:
        """Wait for what runs."""
        await asyncio.gather(*self._running)

    def close(self) -> None:
        """Write what its log still holds."""
        if self._log is not None:
            self._log.close()
