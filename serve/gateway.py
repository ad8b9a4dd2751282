"""The gateway: one request from the wire through `decide()` to what was decided.

It holds a deadline, the fallback ladder and the decision log; it scores nothing
and chooses nothing itself.
"""

import asyncio
import itertools
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter

import numpy as np

from cacs_ray.answers.table import DecisionOrigin
from cacs_ray.decision.candidates import Candidates, Decisions, no_decisions
from cacs_ray.decision.cascade import DecisionSettings, decide
from cacs_ray.errors import InputError
from cacs_ray.schema import POLICIES, PolicyName
from serve.admit import Places
from serve.api import DecideRequest
from serve.arms import Arms
from serve.clicks import FirstPlaces
from serve.controls_file import ControlsFile
from serve.decided import Decided
from serve.decision_log import DecisionLog, RowLog
from serve.holder import Holds
from serve.ladder import LastPctr, RemoteScorers, StageQuestion
from serve.metrics import Metrics
from serve.prepare import narrowed, page_view, prepare
from serve.release import Release
from serve.shadow import Shadow
from serve.stage import StageRelease, Stages
from serve.straight import Straight

_HEALTH_BUDGET_S = 2.0
_HEALTH_CACHE_S = 1.0
_NO_CANDIDATE = "the golden request has no candidate"
_SHADOW_BUDGET_S = 1.0
_ARM_MISSING = "arm_not_held"


class ServedRelease:
    """A release in a gateway, with the CTRs that its ranker last gave.

    Args:
        release: catalogue and declared columns.
        stage: its models, where they answer in this process.

    Raises:
        InputError: the release has no creatives.
    """

    def __init__(self, release: Release, stage: StageRelease | None = None) -> None:
        self.release, self.stage = release, stage
        self.last_pctr = LastPctr(release.catalogue)
        # The first look into a catalogue sorts it: no request shall pay for it.
        asked = release.golden_request(datetime.now(UTC))
        prepare(release, asked, page_view(release, asked, ""))


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks beside its body."""

    budget_s: float | None = None
    """Time to answer in; the gateway's own when None."""
    waited_s: float = 0.0
    """What of it has gone by before the gateway was asked."""
    is_crowded: bool = False
    """Whether there is no time for the ranker, see `Places`."""
    order: PolicyName | None = None
    """Policy in place of the configured one."""
    release: str | None = None
    """Bundle that shall answer, of those that are held; None = by arm."""
    is_controlled: bool = True
    """Whether the operator's controls hold. Not for golden requests: to take
    creatives off does not make a service ill."""


@dataclass(frozen=True, slots=True)
class Logs:
    """Where decisions go: those that were answered, and those of the shadow."""

    decisions: DecisionLog | None = None
    shadow_release: str | None = None
    """Bundle that decides too and answers nobody."""
    shadow: RowLog | None = None
    first_places: FirstPlaces | None = None
    """Remembers what was shown, where clicks come back to."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is configured about every request."""

    arms: Arms
    budget_s: float
    """Time to answer in, unless a request brings its own."""
    controls: ControlsFile | None = None
    """What the operator says about creatives."""
    max_in_flight: int = 6
    """Requests in work at the same time under too much load; others are refused."""
    max_in_full: int | None = None
    """So many of them are answered in full, see `Places`."""
    max_in_burst: int | None = None
    """Requests in work at first when the queue has been short, see `Places`."""
    orders: tuple[PolicyName, ...] = POLICIES
    """What a decision may be asked for in place of the configured policy."""


class Gateway:
    """Answers requests; plain Python, made a deployment in `app`."""

    def __init__(
        self,
        releases: Holds[ServedRelease],
        stages: Stages,
        rules: Rules,
        *,
        logs: Logs | None = None,
        metrics: Metrics | None = None,
        straight: Straight | None = None,
    ) -> None:
        """Take what a gateway works with.

        Args:
            releases: what it holds.
            stages: asked one by one.
            rules: what is configured about every request.
            logs: where decisions go; nowhere when None.
            metrics: what it counts.
            straight: the same stages in this process, asked all at once; the others
                are then asked only when that goes wrong.
        """
        self.releases = releases
        self.metrics = metrics or Metrics()
        self.metrics.watch_releases(
            lambda: (self.release.bundle_id, tuple(releases.held))
        )
        self._stages = stages
        self._straight = straight
        self._rules = rules
        self.places = Places(rules.max_in_flight, rules.max_in_full, rules.max_in_burst)
        logs = logs or Logs()
        self._log = logs.decisions
        self._first_places = logs.first_places
        self._tokens = itertools.count()
        self._token = uuid.uuid4().hex[:12]
        self._health: tuple[float, str | None] = (-np.inf, None)
        self._health_lock = asyncio.Lock()
        self._was_whole = False
        self._shadow = self._make_shadow(logs) if logs.shadow_release else None

    @property
    def release(self) -> Release:
        """The live release."""
        return self.releases.live.release

    async def decide(
        self, request: DecideRequest, question: Question | None = None
    ) -> Decided:
        """Decide one request and log it.

        Args:
            request: as it came over the wire.
            question: what else is asked.

        Raises:
            InputError: a feature is not declared or not of its kind, the ads have
                too many creatives, or the release asked for is not held.
        """
        question = question or Question()
        if question.order is not None and question.order not in self._rules.orders:
            raise InputError(
                f"is not allowed; allowed: {sorted(self._rules.orders)}",
                field="order",
                rule="order_not_allowed",
            )
        decided = await self._decide(request, question)
        self.metrics.count(decided)
        if self._log is not None and len(decided):
            self._log.append(decided)
        if self._shadow is not None:
            # What brownout spares, the shadow shall not spend.
            self._shadow.follow(request, is_crowded=question.is_crowded)
        if self._first_places is not None and decided.is_ranked:
            for ad in np.flatnonzero(decided.decisions.slot == 0):
                ad_id = decided.prepared.candidates.ad_ids[ad]
                self._first_places.remember(request.request_id, ad_id)
        return decided

    async def preview(self, request: DecideRequest, question: Question) -> Decided:
        """Decide one request without logging or counting it.

        Raises:
            InputError: as `decide`.
        """
        return await self._decide(request, question)

    async def health(self) -> str | None:
        """Return None when a golden request goes through all stages, else why not.

        The result is kept for a second; golden requests are not logged.
        """
        async with self._health_lock:
            checked, problem = self._health
            if perf_counter() - checked < _HEALTH_CACHE_S:
                return problem
            problem = await self._check_health()
            self._health = (perf_counter(), problem)
            return problem

    async def is_ready(self) -> bool:
        """Whether requests are to come here: it was whole once, and it answers.

        A stage that is down later is the ladder's business: were every gateway taken
        out of traffic for it, nobody would get its fallbacks.
        """
        problem = await self.health()
        self._was_whole = self._was_whole or problem is None
        return self._was_whole and problem != _NO_CANDIDATE

    def close(self) -> None:
        """Write what the decision log still holds."""
        if self._log is not None:
            self._log.close()
        if self._shadow is not None:
            self._shadow.close()

    def _make_shadow(self, logs: Logs) -> Shadow:
        question = Question(release=logs.shadow_release, budget_s=_SHADOW_BUDGET_S)
        return Shadow(
            lambda request: self._decide(request, question), logs.shadow, self.metrics
        )

    async def _check_health(self) -> str | None:
        golden = self.release.golden_request(datetime.now(UTC))
        # By the live arm and its own policy: what most users get.
        question = Question(
            budget_s=_HEALTH_BUDGET_S,
            order=self._rules.arms.live.settings.policy,
            release=self.release.bundle_id,
            is_controlled=False,
        )
        decided = await self._decide(golden, question)
        if len(decided) == 0:
            return _NO_CANDIDATE
        return decided.origin.fallback_reason

    async def _decide(self, request: DecideRequest, question: Question) -> Decided:
        started = perf_counter()
        budget_s = (question.budget_s or self._rules.budget_s) - question.waited_s
        deadline_s = asyncio.get_running_loop().time() + budget_s
        served, settings, missing = self._answering(request, question)
        page = page_view(served.release, request, f"{self._token}-{next(self._tokens)}")
        said = self._rules.controls if question.is_controlled else None
        controls = None if said is None else said.rows(served.release)
        prepared = prepare(served.release, request, page, controls)
        candidates = prepared.candidates
        scorers = RemoteScorers(
            self._stages,
            served.release.catalogue,
            served.last_pctr,
            StageQuestion(
                served.release.bundle_id,
                narrowed(page, candidates),
                deadline_s,
                is_crowded=question.is_crowded,
            ),
        )
        scorers.seconds |= {
            "queue": question.waited_s,
            "prepare": perf_counter() - started,
        }
        decisions = await self._choose(candidates, scorers, settings)
        scorers.seconds["total"] = perf_counter() - started + question.waited_s
        failures = [missing, *scorers.failures] if missing else scorers.failures
        reason = ",".join(failures) or None
        return Decided(
            request.request_id,
            prepared,
            decisions,
            served.release.catalogue,
            DecisionOrigin(
                settings.policy,
                served.release.bundle_id,
                is_fallback=reason is not None,
                fallback_reason=reason,
            ),
            scorers.seconds,
            scorers.rung,
        )

    async def _choose(
        self, candidates: Candidates, scorers: RemoteScorers, settings: DecisionSettings
    ) -> Decisions:
        if not candidates.ad_ids:
            return no_decisions()
        if self._straight is not None:
            straight = scorers.decide_straight(self._straight, candidates, settings)
            decisions = await straight
            if decisions is not None:
                return decisions
        scorers.begin(settings.policy)
        try:
            return await decide(candidates, scorers, settings)
        finally:
            scorers.end()

    def _answering(
        self, request: DecideRequest, question: Question
    ) -> tuple[ServedRelease, DecisionSettings, str | None]:
        """Return the release that answers from end to end, and by which settings.

        Third, why it is not the release of the user's arm, if it is not.
        """
        arm = self._rules.arms.of(request.user_id, request.request_id)
        served = None if arm.release is None else self.releases.get(arm.release)
        missing = None
        if arm.release is not None and served is None:
            # Whole as the live arm would, and said so: its own figures stay its own.
            arm, missing = self._rules.arms.live, _ARM_MISSING
        if question.release is not None:
            served = self.releases.get(question.release)
            if served is None:
                raise InputError(
                    f"is not held; held: {sorted(self.releases.held)}",
                    field="release",
                    rule="unknown_release",
                )
        changes: dict[str, object] = {}
        if request.num_slots is not None:
            changes["num_slots"] = request.num_slots
        if question.order is not None:
            changes["policy"] = question.order
        settings = arm.settings.model_copy(update=changes) if changes else arm.settings
        return served or self.releases.live, settings, missing
