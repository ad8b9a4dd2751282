"""What the gateway and its stages say to each other, and how a stage starts.

A candidate ads of one request   C creatives per list, padded with 0
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from cacs_ray.features.catalogue import Catalogue
from cacs_ray.features.kept import FittedFeatures
from serve.release import PageView, Release, microseconds


class StagePredictor(Protocol):
    """What the stages ask of an open bundle; `cacs_ray.bundle.Predictor` is one."""

    @property
    def bundle_id(self) -> str:
        """The release."""
        ...

    @property
    def fitted(self) -> FittedFeatures:
        """The fitted features; only their spec is read here."""
        ...

    @property
    def catalogue(self) -> Catalogue:
        """Creatives by row."""
        ...

    def context(self, requests: pa.Table) -> Any:  # noqa: ANN401 - the predictor's own
        """Encode a requests table, one row per candidate ad."""
        ...

    def selector_scores(self, context: Any, lists: np.ndarray) -> np.ndarray:  # noqa: ANN401
        """Return float [A, C]."""
        ...

    def teacher_scores(self, context: Any, lists: np.ndarray) -> np.ndarray:  # noqa: ANN401
        """Return float [A, C]."""
        ...

    def pctr(self, context: Any, creative_row: np.ndarray) -> np.ndarray:  # noqa: ANN401
        """Return float [A]."""
        ...


LoadPredictor = Callable[[], StagePredictor]
"""Opens the bundle of a stage; a test passes its own."""


@dataclass(frozen=True, slots=True)
class StageAnswer:
    """Scores, stamped with the release that gave them."""

    release: str
    scores: np.ndarray | None
    """None: this stage does not hold the release it was asked for."""


class RemoteMethod(Protocol):
    """One method of a deployment handle."""

    def remote(
        self, release: str, page: PageView, creatives: np.ndarray
    ) -> Awaitable[StageAnswer]:
        """Ask; awaiting gives the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Stages:
    """The methods that the gateway calls, of deployment handles or in process."""

    selector_scores: RemoteMethod
    teacher_scores: RemoteMethod
    pctr: RemoteMethod


@dataclass(frozen=True, slots=True)
class InProcess:
    """A stage's method in this process, in the manner of a handle's."""

    method: Callable[[str, PageView, np.ndarray], StageAnswer]

    def remote(
        self, release: str, page: PageView, creatives: np.ndarray
    ) -> Awaitable[StageAnswer]:
        """Run beside the event loop, so that a deadline can pass meanwhile."""
        return asyncio.ensure_future(
            asyncio.to_thread(self.method, release, page, creatives)
        )


def load_predictor(bundle: str | Path) -> StagePredictor:
    """Open a bundle in a replica, with one thread per request.

    Replicas are processes and share few cores: more threads in each would only
    fight. The library reads the setting when it is first imported, hence here.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from cacs_ray.bundle import Predictor

    return Predictor.load(bundle)


def golden_page(predictor: StagePredictor) -> tuple[PageView, np.ndarray]:
    """Return a page view that a bundle can score, with its creative lists.

    Raises:
        InputError: the catalogue is empty.
    """
    catalogue = predictor.catalogue
    release = Release(
        predictor.bundle_id, catalogue, predictor.fitted.spec.of("request")
    )
    asked = release.golden_request(datetime.now(UTC))
    ts_us = microseconds(asked.request_ts or datetime.now(UTC))
    ad_ids = tuple(candidate.ad_id for candidate in asked.candidates)
    page = PageView(
        request_id=asked.request_id,
        request_ts_us=ts_us,
        user_id=None,
        features={},
        ad_ids=ad_ids,
        bid_micros=tuple(candidate.bid_micros for candidate in asked.candidates),
    )
    ad_rows = catalogue.ad_row(ad_ids)
    return page, catalogue.lists(ad_rows, np.full(len(ad_ids), ts_us))
