"""What the gateway counts, for Prometheus; one registry per replica."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0,
    2.5,
)  # fmt: skip


class Metrics:
    """Counters and histograms of one gateway replica."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "cacs_requests",
            "HTTP answers by status.",
            ["status"],
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "cacs_stage_seconds",
            "Time of a request in each stage; `total` is all of it.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.fallbacks = Counter(
            "cacs_fallbacks",
            "Stages that were replaced by a lower rung, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.decisions = Counter(
            "cacs_decisions", "Candidate ads decided.", registry=self.registry
        )
        self.rejected = Counter(
            "cacs_rejected_candidates",
            "Candidate ads that took no part, by rule.",
            ["rule"],
            registry=self.registry,
        )
        self.logged = Counter(
            "cacs_decisions_logged",
            "Decisions that are on disk.",
            registry=self.registry,
        )
        self.dropped = Counter(
            "cacs_decisions_dropped",
            "Decisions that the log had no room for.",
            registry=self.registry,
        )
        self.waiting = Gauge(
            "cacs_decisions_waiting",
            "Decisions that are not on disk yet.",
            registry=self.registry,
        )
        self.release = Gauge(
            "cacs_release", "1 for the release served.", ["release"],
            registry=self.registry,
        )  # fmt: skip

    def page(self) -> bytes:
        """Return all of it in the text format that Prometheus reads."""
        return generate_latest(self.registry)
