"""A whole decision in one thread, where all stages are in this process.

To hand a stage to a thread and to wait for it costs a good part of its own work. Here
the whole of `decide()` is handed over once. The ladder stays where it is: when
anything goes wrong, the gateway asks the stages one by one instead.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from time import monotonic, perf_counter

import numpy as np

from cacs_ray.decision.candidates import Candidates, Decisions
from cacs_ray.decision.cascade import DecisionSettings, decide
from cacs_ray.features.catalogue import Catalogue
from cacs_ray.schema import PolicyName
from serve.release import PageView
from serve.stage import PATIENCE_S, WARY_S, StageMethod

_THREADS = 4

_logger = logging.getLogger(__name__)


Recall = Callable[[Candidates, np.ndarray, np.ndarray | None], tuple[np.ndarray, bool]]
"""(ads, int32 [A] creatives, float [A, C] scores of the selector or None) -> CTR,
float64 [A], and whether the ranker had said all of it."""


@dataclass(frozen=True, slots=True)
class LocalStages:
    """The stages' own methods, to be called in this process."""

    selector_scores: StageMethod
    teacher_scores: StageMethod
    pctr: StageMethod


@dataclass(slots=True)
class StraightScorers:
    """`Scorers` that call the stages at once: their coroutines never wait.

    Scores that are not numbers are found by `decide`.
    """

    stages: LocalStages
    release: str
    page: PageView
    catalogue: Catalogue
    recalled: Recall | None = None
    """In place of the ranker."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time in each stage."""
    priced: np.ndarray | None = None
    """int32 [A]: the creatives whose CTR was asked for."""
    scores: np.ndarray | None = None
    """The selector's, float [A, C], once it was asked."""
    is_last: bool = False
    """Whether all that was recalled had been said by the ranker."""
    is_given_up: bool = False
    """Nobody waits any longer: the next stage need not begin."""

    async def selector_scores(self, candidates: Candidates) -> np.ndarray:
        """Return the student's scores, float [A, C]."""
        asked = self.stages.selector_scores
        self.scores = self._ask("selector", asked, candidates.creative_lists)
        return self.scores

    async def teacher_scores(self, candidates: Candidates) -> np.ndarray:
        """Return the teacher's logits, float [A, C]."""
        asked = self.stages.teacher_scores
        return self._ask("teacher", asked, candidates.creative_lists)

    async def pctr(
        self,
        candidates: Candidates,
        creative_row: np.ndarray,
    ) -> np.ndarray:
        """Return the ranker's CTR, or the recalled one, float64 [A]."""
        self.priced = creative_row
        if self.recalled is not None:
            pctr, self.is_last = self.recalled(candidates, creative_row, self.scores)
            return pctr
        return self._ask("ranker", self.stages.pctr, creative_row)

    async def counts(self, candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
        """(clicks, impressions), float [A, C], as of the end of training."""
        return self.catalogue.counts(candidates.creative_lists)

    def prior(self) -> tuple[float, float]:
        """Beta prior of a creative's CTR."""
        return self.catalogue.prior

    def _ask(self, stage: str, asked: StageMethod, creatives: np.ndarray) -> np.ndarray:
        if self.is_given_up:
            raise TimeoutError(f"given up before the {stage}")
        started = perf_counter()
        answer = asked(self.release, self.page, creatives)
        self.seconds[stage] = perf_counter() - started
        if answer.scores is None or answer.release != self.release:
            raise LookupError(f"the {stage} does not hold {self.release}")
        return answer.scores


class Straight:
    """Runs whole decisions, each in one thread.

    The event loop stands still for a decision, as for a stage, because two threads
    that both want the interpreter slow each other down; when one takes longer, the
    loop goes on beside it and for a while stands still for none. After a decision
    that failed or was given up, its release is not asked this way for a while: the
    ladder meets a stage in trouble at once.
    """

    def __init__(
        self, stages: LocalStages, *, patience_s: float = 2 * PATIENCE_S
    ) -> None:
        """Take the stages.

        Args:
            stages: what decisions ask.
            patience_s: so long the event loop stands still for one decision.
        """
        self.stages = stages
        self._patience_s = patience_s
        self._threads = ThreadPoolExecutor(_THREADS, "straight")
        self._stands_still_from_s = 0.0
        self._trouble: dict[str, _Trouble] = {}

    def is_open(self, release: str, policy: PolicyName) -> bool:
        """Whether a decision would be tried now; `parallel` waits for two stages."""
        return policy != "parallel" and not self._trouble_of(release).is_near

    @property
    def hangs_s(self) -> float:
        """Seconds since a decision was given up that still runs, 0 = there is none."""
        return max((one.hangs_s for one in self._trouble.values()), default=0.0)

    async def decide(
        self,
        candidates: Candidates,
        scorers: StraightScorers,
        settings: DecisionSettings,
        most_s: float,
    ) -> Decisions | None:
        """Decide in a thread and wait for it; only while `is_open`.

        Args:
            candidates: the ads of one request.
            scorers: over these stages, for this request.
            settings: as of `decide`.
            most_s: so long at most.

        Returns:
            None when something went wrong.
        """
        trouble, started = self._trouble_of(scorers.release), monotonic()
        asked = self._threads.submit(_run, candidates, scorers, settings)
        try:
            await self._wait(asked, most_s)
        finally:
            # Nobody waits any longer, perhaps because the client left.
            asked.cancel()
            scorers.is_given_up = True
        if asked.cancelled() or not asked.done():
            # Had it little time, then that says nothing of the stages.
            if monotonic() - started >= self._patience_s:
                trouble.note(asked)
            return None
        error = asked.exception()
        if error is None:
            return asked.result()
        trouble.note(asked)
        _logger.warning("stage by stage: %s: %s", type(error).__name__, error)
        return None

    def _trouble_of(self, release: str) -> "_Trouble":
        return self._trouble.setdefault(release, _Trouble())

    async def _wait(self, asked: "Future[Decisions]", most_s: float) -> None:
        """Stand still for a decision at first, then let the event loop go on."""
        began = monotonic()
        if began >= self._stands_still_from_s:
            wait((asked,), min(most_s, self._patience_s))
            if not asked.done() and most_s >= self._patience_s:
                self._stands_still_from_s = monotonic() + WARY_S
        left_s = began + most_s - monotonic()
        if not asked.done() and left_s > 0:
            answer = asyncio.wrap_future(asked)
            try:
                await asyncio.wait({answer}, timeout=left_s)
            finally:
                # An error that nobody looked at here would be complained of.
                if not answer.cancel() and not answer.cancelled():
                    answer.exception()


class _Trouble:
    """When a release's decisions last went wrong."""

    def __init__(self) -> None:
        self._until_s = 0.0
        self._noted_s = 0.0
        self._left: Future[Decisions] | None = None

    @property
    def is_near(self) -> bool:
        """Whether it was a moment ago, or what was given up still runs."""
        return self._is_running or monotonic() < self._until_s

    @property
    def hangs_s(self) -> float:
        """Seconds since what still runs was given up, else 0."""
        return monotonic() - self._noted_s if self._is_running else 0.0

    def note(self, asked: "Future[Decisions]") -> None:
        """Note a decision that failed or was given up."""
        # Several may be given up; the first that hangs tells since when.
        if self._is_running:
            return
        self._noted_s = monotonic()
        self._until_s, self._left = self._noted_s + WARY_S, asked

    @property
    def _is_running(self) -> bool:
        return self._left is not None and not self._left.done()


def _run(
    candidates: Candidates, scorers: StraightScorers, settings: DecisionSettings
) -> Decisions:
    """Run a coroutine that never waits, without an event loop."""
    try:
        decide(candidates, scorers, settings).send(None)
    except StopIteration as ended:
        decisions: Decisions = ended.value
        return decisions
    raise RuntimeError("a stage in this process waited")
