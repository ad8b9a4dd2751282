"""What the gateway counts, for Prometheus; one registry per replica."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
)

from cacs_ray.schema import Column
from serve.api import Rung
from serve.decided import Decided

_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0,
    2.5,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LogCounts:
    """What became of the rows of one log."""

    logged: Counter
    dropped: Counter
    waiting: Gauge
    lag_s: Gauge


class Metrics:
    """Counters and histograms of one gateway replica."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # Two threads tell: the one that is asked, and the one that leaves pages.
        self._telling = threading.Lock()
        self.requests = self._counter(
            "cacs_requests", "HTTP answers by status.", "status"
        )
        self.shed = self._counter(
            "cacs_requests_shed", "Requests refused because too many were in work."
        )
        self.in_flight = self._gauge("cacs_in_flight", "Requests being answered.")
        self.stage_seconds = Histogram(
            "cacs_stage_seconds",
            "Time of a request in each stage; `total` is all of it.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.fallbacks = self._counter(
            "cacs_fallbacks",
            "Stages that were replaced by a lower rung, by reason.",
            "reason",
        )
        self.decided = self._counter(
            "cacs_requests_decided",
            "Requests decided, by release and policy.",
            "release",
            "policy",
        )
        self.decisions = self._counter("cacs_decisions", "Candidate ads decided.")
        self.explored = self._counter(
            "cacs_decisions_explored",
            "Candidate ads whose creative is not the likeliest of its list.",
        )
        self.rejected = self._counter(
            "cacs_rejected_candidates", "Candidate ads that took no part.", "rule"
        )
        self._describe_outcomes()
        self.release = self._gauge(
            "cacs_release",
            "Releases that the gateway holds: 1 live, 0 not.",
            "release",
        )
        self.decision_log = self._log("decisions", "Decisions")
        self.shadow_log = self._log("shadow_decisions", "Decisions of the shadow")
        self.click_log = self._log("clicks", "Clicks")

    def _describe_outcomes(self) -> None:
        self.lower_rungs = self._counter(
            "cacs_lower_rungs",
            "Requests answered by a lower rung of the choice or of the CTR; several"
            " reasons lead to one.",
            "part",
            "rung",
        )
        self.shown = self._counter("cacs_placements", "Ads shown.")
        self.predicted_clicks = self._counter(
            "cacs_predicted_clicks",
            "Sum of the ranker's CTR of the ads in slot 0; beside cacs_slot0_clicks"
            " it says how well the ranker is calibrated now.",
        )
        self.first_clicks = self._counter(
            "cacs_slot0_clicks",
            "First clicks on ads that this gateway put in slot 0 by the ranker's CTR.",
        )
        self.clicks = self._counter("cacs_clicks", "Clicks accepted.")
        self.shadows = self._counter(
            "cacs_shadow_requests", "Requests that the shadow decided too.", "outcome"
        )

    def count(self, decided: Decided) -> None:
        """Count one answered request."""
        decisions, origin = decided.decisions, decided.origin
        self.decided.labels(origin.release, origin.policy).inc()
        self.decisions.inc(len(decided))
        for stage, seconds in decided.seconds.items():
            self.stage_seconds.labels(stage).observe(seconds)
        for reason in (origin.fallback_reason or "").split(","):
            if reason:
                self.fallbacks.labels(reason).inc()
        if origin.is_fallback:
            self._count_rung(decided.rung)
        for rule in decided.prepared.rejects[Column.RULE].to_pylist():
            self.rejected.labels(rule).inc()
        shares = decisions.list_probabilities
        if len(decided) and shares is not None:
            # By probabilities, not scores: Thompson has none, and pins are no choice.
            self.explored.inc(int((decisions.propensity < shares.max(1)).sum()))
        self.shown.inc(int((decisions.slot >= 0).sum()))
        if decided.is_ranked:
            first = decisions.slot == 0
            self.predicted_clicks.inc(float(decisions.pctr[first].sum()))

    def _count_rung(self, reached: Rung) -> None:
        for part, rung in reached:
            if rung != Rung.model_fields[part].default:
                self.lower_rungs.labels(part, rung).inc()

    def watch_releases(self, held: Callable[[], tuple[str, tuple[str, ...]]]) -> None:
        """Tell, whenever the page is read, what is live and what else is held."""
        self._held = held

    def page(self) -> bytes:
        """Return all of it in the text format that Prometheus reads."""
        with self._telling:
            self._note_releases()
            return generate_latest(self.registry)

    def collect(self) -> list[Metric]:
        """Return all of it as families of samples."""
        with self._telling:
            self._note_releases()
            return list(self.registry.collect())

    def _note_releases(self) -> None:
        if self._held is not None:
            live, held = self._held()
            self.release.clear()
            for release in held:
                self.release.labels(release).set(release == live)

    _held: Callable[[], tuple[str, tuple[str, ...]]] | None = None

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(name, says, labels, registry=self.registry)

    def _gauge(self, name: str, says: str, *labels: str) -> Gauge:
        return Gauge(name, says, labels, registry=self.registry)

    def _log(self, name: str, says: str) -> LogCounts:
        return LogCounts(
            logged=self._counter(f"cacs_{name}_logged", f"{says} that are on disk."),
            dropped=self._counter(
                f"cacs_{name}_dropped", f"{says} that the log had no room for."
            ),
            waiting=self._gauge(
                f"cacs_{name}_waiting", f"{says} that are not on disk yet."
            ),
            lag_s=self._gauge(
                f"cacs_{name}_lag_seconds",
                f"Age of the oldest of {says.lower()} waiting.",
            ),
        )
