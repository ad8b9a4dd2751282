"""Scores by handles, with a deadline; a stage that fails is replaced by a lower rung.

    A candidate ads of one request   C creatives per list, padded with 0

Rungs for the choice: the stage's scores, else the smoothed CTR of training (with
equal counts that is the first live creative). Rungs for the CTR: the ranker's,
else what it lately gave for that creative, else the smoothed CTR of training, see
`LastPctr`. They are named in `serve.api.Rung`.
Only scores are replaced: choice, exploration and auction go on as always.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from cacs_ray.decision.candidates import Candidates, Decisions
from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.decision.creative_policy import (
    list_mean,
    moved_by_standout,
    smoothed_ctr,
)
from cacs_ray.features.catalogue import Catalogue
from cacs_ray.schema import PolicyName
from serve.api import Rung
from serve.release import PageView
from serve.stage import RemoteMethod, StageAnswer, Stages
from serve.straight import Straight, StraightScorers

# A stage may use this much of the time left, so that the next one has some too.
STAGE_SHARE = 0.6

# Policies that choose by scores, in a stage that takes its time, before ranking.
_CHOOSES_FIRST = ("cacs", "teacher")

NEWEST_SHARE = 0.1
"""Of what the ranker says now, in what is remembered of a creative."""

_SPARED = "ranker_spared"

_logger = logging.getLogger(__name__)


class LastPctr:
    """The CTR that the ranker lately gave for each creative.

    A moving mean, not the last one: that was another user's, and ads that it orders
    earn a tenth less (docs/decisions/0018).
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._pctr = smoothed_ctr(
            catalogue.clicks, catalogue.impressions, catalogue.prior
        )
        """float64 [K + 1]: begins with the smoothed CTR of training."""
        self._is_said = np.zeros(len(self._pctr), bool)

    def remember(self, creative_row: np.ndarray, pctr: np.ndarray) -> None:
        """Keep what the ranker said; row 0 stands for no creative and is left out."""
        is_known = creative_row > 0
        rows = creative_row[is_known]
        self._pctr[rows] += NEWEST_SHARE * (pctr[is_known] - self._pctr[rows])
        self._is_said[rows] = True

    def recall(
        self,
        candidates: Candidates,
        creative_row: np.ndarray,
        scores: np.ndarray | None = None,
    ) -> tuple[np.ndarray, bool]:
        """Return the CTR of each ad, float64 [A], and whether the ranker said it all.

        Args:
            candidates: the ads.
            creative_row: int32 [A]; where it is 0, because none is chosen yet, the
                mean over the ad's live creatives, as the ranker answers then.
            scores: of the selector, float [A, C], where there are any: then it is the
                mean for all ads, moved in log-odds by how far the chosen one's score
                stands out from its list, as the order `parallel` does.
        """
        lists, mask = candidates.creative_lists, candidates.mask
        is_open = creative_row == 0
        is_chosen = lists == creative_row[:, None]
        looked_at = np.where(is_open[:, None], mask, is_chosen & mask)
        is_said = bool(self._is_said[lists[looked_at]].all())
        of_ad = list_mean(self._pctr[lists], mask)
        if scores is None:
            return np.where(is_open, of_ad, self._pctr[creative_row]), is_said
        # Neither what is open nor a pin from outside the list has a score.
        own = np.where(is_chosen & mask, scores, 0.0).sum(1)
        own = np.where((is_chosen & mask).any(1), own, np.nan)
        moved = moved_by_standout(of_ad, own, scores.astype(np.float64), mask)
        return moved, is_said


@dataclass(frozen=True, slots=True)
class StageQuestion:
    """What is the same in every call of one request."""

    release: str
    page: PageView
    deadline_s: float
    """On the clock of the event loop."""
    is_crowded: bool = False
    """Ranker and teacher are not asked: others wait, and they are most of the work."""


@dataclass(slots=True)
class RemoteScorers:
    """`Scorers` for one request, by handles; keeps what failed and how long it took."""

    stages: Stages
    catalogue: Catalogue
    last_pctr: LastPctr
    question: StageQuestion
    failures: list[str] = field(default_factory=list)
    """`<stage>_<how>`, in the order of failing."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time in each stage."""
    rung: Rung = field(default_factory=Rung)
    """The lowest that was needed."""
    scores: np.ndarray | None = None
    """The selector's, float [A, C], once it has given any."""
    opening: "asyncio.Future[StageAnswer] | None" = None
    """The ranker's work that no choice changes, while the selector chooses."""

    def begin(self, policy: PolicyName) -> None:
        """Start what needs no choice, where the policy asks the ranker afterwards."""
        open_page = self.stages.open_page
        is_asked = policy in _CHOOSES_FIRST and not self.question.is_crowded
        if open_page is None or not is_asked:
            return
        nothing = np.zeros(0, np.int32)
        self.opening = self._call(open_page, nothing, self._stage_s())

    def end(self) -> None:
        """Stop what was begun and is not needed: the client left, or a stage failed."""
        if self.opening is not None:
            self.opening.cancel()

    async def decide_straight(
        self, straight: Straight, candidates: Candidates, settings: DecisionSettings
    ) -> Decisions | None:
        """Decide in one thread of this process; None = ask the stages one by one."""
        started, most_s = perf_counter(), self._stage_s()
        question = self.question
        # What would choose is not asked either: the ladder has the next rung.
        is_spared = question.is_crowded and settings.policy == "teacher"
        is_open = straight.is_open(question.release, settings.policy)
        if most_s == 0 or is_spared or not is_open:
            return None
        asked = StraightScorers(
            straight.stages,
            question.release,
            question.page,
            self.catalogue,
            self.last_pctr.recall if question.is_crowded else None,
        )
        decisions = await straight.decide(candidates, asked, settings, most_s)
        if decisions is None:
            # What was lost here is time of the request too.
            self.seconds["straight"] = perf_counter() - started
            return None
        self.seconds |= asked.seconds
        if asked.priced is None:
            return decisions
        if question.is_crowded:
            self.failures.append(_SPARED)
            self._fall(is_last=asked.is_last)
        else:
            self.last_pctr.remember(asked.priced, decisions.pctr)
        return decisions

    async def selector_scores(self, candidates: Candidates) -> np.ndarray:
        """Return the student's scores, float [A, C], else the smoothed CTR."""
        asked = self.stages.selector_scores
        return await self._list_scores("selector", asked, candidates)

    async def teacher_scores(self, candidates: Candidates) -> np.ndarray:
        """Return the teacher's logits, float [A, C], else the smoothed CTR."""
        if self.question.is_crowded:
            return await self._replace_scores("teacher_spared", candidates)
        asked = self.stages.teacher_scores
        return await self._list_scores("teacher", asked, candidates)

    async def pctr(
        self, candidates: Candidates, creative_row: np.ndarray
    ) -> np.ndarray:
        """Return the ranker's CTR, float64 [A], else that of the next rung."""
        if self.question.is_crowded:
            return self._replace_ranker(candidates, creative_row, _SPARED)
        await self._opened()
        pctr = await self._ask("ranker", self.stages.pctr, creative_row)
        if pctr is None:
            return self._replace_ranker(candidates, creative_row)
        is_ctr = pctr.shape == (len(candidates.ad_ids),) and bool(
            ((pctr >= 0) & (pctr <= 1)).all()
        )
        if not is_ctr:
            return self._replace_ranker(candidates, creative_row, "ranker_not_finite")
        self.last_pctr.remember(creative_row, pctr)
        return pctr

    async def counts(self, candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
        """(clicks, impressions), float [A, C], as of the end of training."""
        return self.catalogue.counts(candidates.creative_lists)

    def prior(self) -> tuple[float, float]:
        """Beta prior of a creative's CTR."""
        return self.catalogue.prior

    def _replace_ranker(
        self,
        candidates: Candidates,
        creative_row: np.ndarray,
        failure: str | None = None,
    ) -> np.ndarray:
        """Return the CTR of the next rung, float64 [A]; note why, if it is not yet."""
        if failure is not None:
            self.failures.append(failure)
        pctr, is_last = self.last_pctr.recall(candidates, creative_row, self.scores)
        self._fall(is_last=is_last)
        return pctr

    def _fall(self, *, is_last: bool) -> None:
        self.rung = self.rung.model_copy(
            update={"ctr": "last_ctr" if is_last else "training_ctr"}
        )

    async def _list_scores(
        self, stage: str, asked: RemoteMethod, candidates: Candidates
    ) -> np.ndarray:
        scores = await self._ask(stage, asked, candidates.creative_lists)
        mask = candidates.mask
        if scores is None:
            return await self._replace_scores(None, candidates)
        if scores.shape == mask.shape and bool(np.isfinite(scores[mask]).all()):
            if stage == "selector":
                self.scores = scores
            return scores
        return await self._replace_scores(f"{stage}_not_finite", candidates)

    async def _replace_scores(
        self, failure: str | None, candidates: Candidates
    ) -> np.ndarray:
        """Return the scores of the next rung, float64 [A, C]; note why, if not yet."""
        if failure is not None:
            self.failures.append(failure)
        clicks, impressions = await self.counts(candidates)
        ctr = smoothed_ctr(clicks, impressions, self.catalogue.prior)
        is_told = _tells_apart(candidates, ctr)
        self.rung = self.rung.model_copy(
            update={"choice": "popular_creative" if is_told else "default_creative"}
        )
        return ctr

    async def _ask(
        self, stage: str, asked: RemoteMethod, creatives: np.ndarray
    ) -> np.ndarray | None:
        """Return a stage's scores, or None and why it has none."""
        started, most_s = perf_counter(), self._stage_s()
        if most_s == 0:
            # Its time went by in the queue: a stage that is asked too costs others'.
            self.failures.append(f"{stage}_late")
            return None
        answer = self._call(asked, creatives, most_s)
        try:
            if not answer.done():
                await asyncio.wait({answer}, timeout=most_s)
        finally:
            # Nothing that is past its deadline keeps running, nor what a client left
            # alone; beside other requests in one call such a question is answered yet.
            answer.cancel()
            self.seconds[stage] = perf_counter() - started
        failure = _failure(answer, self.question.release)
        if failure is not None:
            self.failures.append(f"{stage}_{failure}")
            return None
        return answer.result().scores

    async def _opened(self) -> None:
        """Wait for the page to be opened, as long as a stage may take at all.

        Should that fail, the ranker does the work when it is asked for the CTR.
        """
        task, self.opening = self.opening, None
        if task is None:
            return
        try:
            await asyncio.wait({task}, timeout=self._stage_s())
        finally:
            task.cancel()
        if task.done() and not task.cancelled():
            task.exception()

    def _stage_s(self) -> float:
        """Return how long a stage may take that is asked now."""
        left_s = self.question.deadline_s - asyncio.get_running_loop().time()
        return max(0.0, STAGE_SHARE * left_s)

    def _call(
        self, asked: RemoteMethod, creatives: np.ndarray, most_s: float
    ) -> "asyncio.Future[StageAnswer]":
        release, page = self.question.release, self.question.page
        try:
            return asked.remote(release, page, creatives, most_s)
        except Exception as error:  # noqa: BLE001 - a stage that fails, as any other
            failed = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed


def _tells_apart(candidates: Candidates, scores: np.ndarray) -> bool:
    """Whether scores, float [A, C], prefer a creative of every ad with a choice."""
    mask = candidates.mask
    has_choice = (mask.sum(1) > 1) & (candidates.pinned == 0)
    least = np.where(mask, scores, np.inf).min(1)
    most = np.where(mask, scores, -np.inf).max(1)
    return bool((most > least)[has_choice].all())


def _failure(task: "asyncio.Future[StageAnswer]", release: str) -> str | None:
    """Return in one word why a call gave no scores, or None."""
    if not task.done() or task.cancelled():
        return "late"
    error = task.exception()
    if error is not None:
        _logger.warning("a stage failed: %s: %s", type(error).__name__, error)
        return "busy" if type(error).__name__ == "BackPressureError" else "failed"
    answer = task.result()
    is_ours = answer.release == release and answer.scores is not None
    return None if is_ours else "other_release"
