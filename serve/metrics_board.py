"""Figures of all gateways on one page, whichever of them is asked.

A scrape through the proxy meets one gateway or another, and counters that jump back
and forth say nothing. Each gateway leaves its page beside the release board, and the
one that is asked answers for all, each under a label of its own.

    metrics/<gateway>.prom   what one gateway counted; touched while it lives
"""

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from cacs_ray.data.files import write_bytes
from serve.metrics import Metrics

EVERY_S: Final = 2.0
"""How often a gateway leaves its page; so old is what another one tells of it."""
ALIVE_S: Final = 10.0
"""A gateway that left nothing for so long is gone, and its counters with it."""
LABEL: Final = "gateway"
_SUFFIX: Final = ".prom"

_logger = logging.getLogger(__name__)


class MetricsBoard:
    """Leaves the page of one gateway, and puts those of all together.

    Args:
        directory: on a file system that all gateways of the service see.
        metrics: what this gateway counts.
        every_s: seconds between two pages left; `None` leaves them only when told.
    """

    def __init__(
        self, directory: Path, metrics: Metrics, *, every_s: float | None = EVERY_S
    ) -> None:
        self._directory, self._metrics = directory, metrics
        self.name = uuid.uuid4().hex[:8]
        """Of this gateway, in its label and its files."""
        self._file = directory / f"{self.name}{_SUFFIX}"
        self._left = b""
        self._stops = threading.Event()
        self._leaves_badly = False
        self._forget_dead()
        self.leave()
        self._thread: threading.Thread | None = None
        if every_s is not None:
            self._thread = threading.Thread(
                target=self._run, args=(every_s,), name="metrics-board", daemon=True
            )
            self._thread.start()

    def leave(self) -> None:
        """Write what this gateway has counted, or touch it if nothing changed.

        A disk that does not take it costs the others this gateway's figures and
        nothing else.
        """
        try:
            page = self._metrics.page()
            if page == self._left and self._file.exists():
                os.utime(self._file)
            else:
                write_bytes(self._file, page)
                self._left = page
            self._leaves_badly = False
        except OSError as error:
            if not self._leaves_badly:
                _logger.warning("metrics not left for other gateways: %s", error)
            self._leaves_badly = True

    def page(self) -> bytes:
        """Return the figures of all gateways that live, in Prometheus' text format.

        Every sample has the label `gateway`; this one's are those of now. To read
        those of the others takes milliseconds and a disk: not in an event loop.
        """
        families: dict[str, Metric] = {}
        _add(families, self._metrics.collect(), self.name)
        for name, told in self._others():
            _add(families, told, name)
        registry = CollectorRegistry()
        registry.register(_Collected(families.values()))
        return generate_latest(registry)

    def close(self) -> None:
        """Leave nothing more, and take away what was left."""
        self._stops.set()
        if self._thread is not None:
            self._thread.join()
        self._file.unlink(missing_ok=True)

    def _run(self, every_s: float) -> None:
        while not self._stops.wait(every_s):
            try:
                self.leave()
            except Exception:
                # Were this thread to end, the others would take us for dead.
                _logger.exception("metrics not left for other gateways")

    def _others(self) -> Iterator[tuple[str, list[Metric]]]:
        """Yield what the others that live have left; what cannot be read is told."""
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            try:
                is_alive = time.time() - path.stat().st_mtime <= ALIVE_S
                if path == self._file or not is_alive:
                    continue
                told = list(text_string_to_metric_families(path.read_text()))
            except FileNotFoundError:
                # It ended between the listing and the reading.
                continue
            except (OSError, ValueError) as error:
                _logger.warning("metrics of %s cannot be read: %s", path, error)
                continue
            yield path.stem, told

    def _forget_dead(self) -> None:
        """Remove what gateways left that were killed; one that lives writes again."""
        for path in self._directory.glob(f"*{_SUFFIX}"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > ALIVE_S:
                    path.unlink()


class _Collected(Collector):
    """Families that were collected elsewhere, for the one function that writes them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._families


def _add(families: dict[str, Metric], more: Iterable[Metric], gateway: str) -> None:
    """Add the samples of one gateway under its label.

    Moments of birth are left out: in a page they stand as families of their own, in
    a registry inside the counter's, and a family may be told once.
    """
    for family in more:
        samples = [one for one in family.samples if not one.name.endswith("_created")]
        if not samples:
            continue
        told = Metric(family.name, family.documentation, family.type)
        mine = families.setdefault(family.name, told)
        for one in samples:
            mine.add_sample(one.name, {**one.labels, LABEL: gateway}, one.value)
