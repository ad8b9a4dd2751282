"""The gateway: one request from the wire through `decide()` to the answer.

It holds a deadline, the fallback ladder and the decision log; it scores nothing
and chooses nothing itself.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter

import numpy as np
import pyarrow as pa

from cacs_ray.answers.prepare import PreparedRequests, prepare_requests
from cacs_ray.answers.table import DecisionOrigin
from cacs_ray.decision.candidates import Candidates, Decisions
from cacs_ray.decision.cascade import DecisionSettings, decide
from cacs_ray.errors import InputError
from cacs_ray.schema import REQUESTS, Column
from serve.api import (
    MAX_CREATIVES,
    CandidateDecision,
    DecideAnswer,
    DecideRequest,
    Placement,
    Rejected,
)
from serve.decision_log import DecisionLog, LoggedDecision
from serve.ladder import LastPctr, RemoteScorers, StageQuestion
from serve.metrics import Metrics
from serve.release import PageView, Release, microseconds, requests_table
from serve.stage import Stages

_HEALTH_BUDGET_S = 2.0
_HEALTH_CACHE_S = 1.0


@dataclass(frozen=True, slots=True)
class Decided:
    """One request, decided."""

    request_id: str
    prepared: PreparedRequests
    decisions: Decisions
    origin: DecisionOrigin
    seconds: dict[str, float]
    """Time in each stage and in `total`."""


class Gateway:
    """Answers requests; plain Python, made a deployment in `app`.

    Raises:
        InputError: the release has no creatives.
    """

    def __init__(
        self,
        release: Release,
        stages: Stages,
        settings: DecisionSettings,
        *,
        budget_s: float,
        log: DecisionLog | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.release = release
        self.metrics = metrics or Metrics()
        self.metrics.release.labels(release.bundle_id).set(1)
        self._stages = stages
        self._settings = settings
        self._budget_s = budget_s
        self._log = log
        self._last_pctr = LastPctr(release.catalogue)
        self._health: tuple[float, str | None] = (-np.inf, None)
        self._health_lock = asyncio.Lock()
        # The first look into a catalogue sorts it: no request shall pay for it.
        self._prepare(release.golden_request(datetime.now(UTC)))

    async def decide(
        self, request: DecideRequest, *, budget_s: float | None = None
    ) -> Decided:
        """Decide one request and log it.

        Args:
            request: as it came over the wire.
            budget_s: time to answer in; the gateway's own when None.

        Raises:
            InputError: a feature is not declared or not of its kind, or the ads
                have too many creatives.
        """
        decided = await self._decide(request, budget_s or self._budget_s)
        self._count(decided)
        if self._log is not None and len(decided.prepared.ad_rows):
            self._log.append(
                LoggedDecision(
                    decided.prepared,
                    decided.decisions,
                    self.release.catalogue,
                    decided.origin,
                )
            )
        return decided

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

    def answer(self, decided: Decided, *, is_explained: bool = False) -> DecideAnswer:
        """Return what goes over the wire."""
        origin = decided.origin
        slot = decided.decisions.slot
        by_slot = np.argsort(slot, kind="stable")
        shown = _decision_rows(decided, self.release, by_slot[slot[by_slot] >= 0])
        explained = _decision_rows(
            decided, self.release, np.arange(len(slot) if is_explained else 0)
        )
        return DecideAnswer(
            request_id=decided.request_id,
            release=origin.release,
            policy=origin.policy,
            is_fallback=origin.is_fallback,
            fallback_reason=origin.fallback_reason,
            placements=[_placement(row) for row in shown],
            rejected=_rejected(decided.prepared.rejects),
            decisions=explained if is_explained else None,
        )

    def close(self) -> None:
        """Write what the decision log still holds."""
        if self._log is not None:
            self._log.close()

    async def _check_health(self) -> str | None:
        golden = self.release.golden_request(datetime.now(UTC))
        decided = await self._decide(golden, _HEALTH_BUDGET_S)
        if len(decided.prepared.ad_rows) == 0:
            return "the golden request has no candidate"
        return decided.origin.fallback_reason

    async def _decide(self, request: DecideRequest, budget_s: float) -> Decided:
        started = perf_counter()
        deadline_s = asyncio.get_running_loop().time() + budget_s
        page, prepared = self._prepare(request)
        candidates = prepared.candidates
        scorers = RemoteScorers(
            self._stages,
            self.release.catalogue,
            self._last_pctr,
            StageQuestion(
                self.release.bundle_id, _narrowed(page, candidates), deadline_s
            ),
        )
        scorers.seconds["prepare"] = perf_counter() - started
        decisions = await self._choose(request, candidates, scorers)
        scorers.seconds["total"] = perf_counter() - started
        reason = ",".join(scorers.failures) or None
        return Decided(
            request.request_id,
            prepared,
            decisions,
            DecisionOrigin(
                self._settings.policy,
                self.release.bundle_id,
                is_fallback=reason is not None,
                fallback_reason=reason,
            ),
            scorers.seconds,
        )

    def _prepare(self, request: DecideRequest) -> tuple[PageView, PreparedRequests]:
        """Apply the rules of asking that need no model."""
        page = self._page(request)
        prepared = prepare_requests(
            self.release.catalogue, _asked_table(request, page, self.release.columns)
        )
        if prepared.candidates.mask.sum() > MAX_CREATIVES:
            raise InputError(
                f"the ads have more than {MAX_CREATIVES} live creatives together",
                field="candidates",
                rule="too_many_creatives",
            )
        return page, prepared

    async def _choose(
        self, request: DecideRequest, candidates: Candidates, scorers: RemoteScorers
    ) -> Decisions:
        if not candidates.ad_ids:
            none, floats = np.zeros(0, np.int32), np.zeros(0)
            return Decisions(
                none, floats, floats, floats, floats, none, np.zeros(0, np.int64)
            )
        settings = self._settings
        if request.num_slots is not None:
            settings = settings.model_copy(update={"num_slots": request.num_slots})
        return await decide(candidates, scorers, settings)

    def _page(self, request: DecideRequest) -> PageView:
        return PageView(
            request_id=request.request_id,
            request_ts_us=microseconds(request.request_ts or datetime.now(UTC)),
            user_id=request.user_id,
            features=self.release.features(request.features),
            ad_ids=tuple(asked.ad_id for asked in request.candidates),
            bid_micros=tuple(asked.bid_micros for asked in request.candidates),
        )

    def _count(self, decided: Decided) -> None:
        metrics = self.metrics
        metrics.decisions.inc(len(decided.prepared.ad_rows))
        for stage, seconds in decided.seconds.items():
            metrics.stage_seconds.labels(stage).observe(seconds)
        for reason in (decided.origin.fallback_reason or "").split(","):
            if reason:
                metrics.fallbacks.labels(reason).inc()
        for rule in decided.prepared.rejects[Column.RULE].to_pylist():
            metrics.rejected.labels(rule).inc()


def _asked_table(
    request: DecideRequest, page: PageView, columns: pa.Schema
) -> pa.Table:
    """Return a request in the contract's requests form."""
    asked = {
        Column.CREATIVE_IDS: [c.creative_ids for c in request.candidates],
        Column.PINNED_CREATIVE_ID: [c.pinned_creative_id for c in request.candidates],
    }
    table = requests_table(page, columns)
    for name, values in asked.items():
        table = table.append_column(name, pa.array(values, REQUESTS.field(name).type))
    return table


def _narrowed(page: PageView, candidates: Candidates) -> PageView:
    """Return the page view of the ads that take part."""
    return PageView(
        page.request_id,
        page.request_ts_us,
        page.user_id,
        page.features,
        candidates.ad_ids,
        tuple(candidates.bid_micros.tolist()),
    )


def _decision_rows(
    decided: Decided, release: Release, ads: np.ndarray
) -> list[CandidateDecision]:
    """Return the decisions of some candidate ads, by their index."""
    candidates, decisions = decided.prepared.candidates, decided.decisions
    creative_ids = release.catalogue.creative_ids
    rows = []
    for ad in ads.tolist():
        is_shown = decisions.slot[ad] >= 0
        score = float(decisions.selector_score[ad])
        listed = candidates.creative_lists[ad]
        rows.append(
            CandidateDecision(
                ad_id=candidates.ad_ids[ad],
                creative_id=creative_ids[decisions.creative_row[ad]],
                candidate_creative_ids=[
                    creative_ids[row] for row in listed[listed > 0]
                ],
                propensity=float(decisions.propensity[ad]),
                selector_score=score if np.isfinite(score) else None,
                pctr=float(decisions.pctr[ad]),
                bid_micros=int(candidates.bid_micros[ad]),
                ecpm_micros=float(decisions.ecpm_micros[ad]),
                slot=int(decisions.slot[ad]) if is_shown else None,
                price_micros=int(decisions.price_micros[ad]) if is_shown else None,
            )
        )
    return rows


def _placement(row: CandidateDecision) -> Placement:
    return Placement(
        slot=row.slot or 0,
        ad_id=row.ad_id,
        creative_id=row.creative_id,
        pctr=row.pctr,
        ecpm_micros=row.ecpm_micros,
        price_micros=row.price_micros or 0,
        propensity=row.propensity,
        selector_score=row.selector_score,
    )


def _rejected(rejects: pa.Table) -> list[Rejected]:
    ads, rules = rejects[Column.AD_ID].to_pylist(), rejects[Column.RULE].to_pylist()
    return [
        Rejected(ad_id=ad_id, rule=rule) for ad_id, rule in zip(ads, rules, strict=True)
    ]
