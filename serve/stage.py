"""What the gateway and its stages say to each other, and how a stage starts.

A candidate ads of one request   C creatives per list, padded with 0
"""

import asyncio
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
from cachetools import LRUCache

from cacs_ray.features.catalogue import Catalogue
from cacs_ray.features.kept import FittedFeatures
from serve.release import PageView, request_columns, requests_table

# Pages that a replica remembers: those in flight, with room to spare.
_PAGES_KEPT = 128

_STAGE_THREADS = 4

PATIENCE_S: Final = 0.01
"""An answer takes a few milliseconds; a stage that takes this long is in trouble."""
WARY_S: Final = 0.25
"""After that the event loop does not stand still for it for so long."""


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

    def context_part(self, context: Any) -> Any:  # noqa: ANN401
        """Return the ranker's part of the context, which no choice changes."""
        ...

    def selector_scores(self, context: Any, lists: np.ndarray) -> np.ndarray:  # noqa: ANN401
        """Return float [A, C]."""
        ...

    def teacher_scores(self, context: Any, lists: np.ndarray) -> np.ndarray:  # noqa: ANN401
        """Return float [A, C]."""
        ...

    def pctr(
        self,
        context: Any,  # noqa: ANN401
        creative_row: np.ndarray,
        context_part: Any = None,  # noqa: ANN401
    ) -> np.ndarray:
        """Return float [A]."""
        ...


LoadPredictor = Callable[[str], StagePredictor]
"""Opens the bundle of a stage by its path; a test passes its own."""


@dataclass(frozen=True, slots=True)
class StageAnswer:
    """Scores, stamped with the release that gave them."""

    release: str
    scores: np.ndarray | None
    """None: this stage does not hold the release it was asked for, has nothing to
    say, or failed."""
    failure: str | None = None
    """What it failed with, where it was asked several questions at once; else it
    raises."""


StageMethod = Callable[[str, PageView, np.ndarray], StageAnswer]
"""One method of a stage in this process: release, page, creatives -> answer."""


class RemoteMethod(Protocol):
    """One method of a stage, in this process or in another."""

    def remote(
        self, release: str, page: PageView, creatives: np.ndarray, most_s: float
    ) -> "asyncio.Future[StageAnswer]":
        """Ask; awaiting gives the answer, which is waited for `most_s` seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Stages:
    """The methods that the gateway calls, of deployment handles or in process."""

    selector_scores: RemoteMethod
    teacher_scores: RemoteMethod
    pctr: RemoteMethod
    open_page: RemoteMethod | None = None
    """Lets the ranker do what no choice changes while the selector chooses; None
    where that does not pay."""

    @property
    def in_process(self) -> "list[InProcess]":
        """Those that are in this process."""
        named = (self.selector_scores, self.teacher_scores, self.pctr)
        return [one for one in named if isinstance(one, InProcess)]


class InProcess:
    """A stage's method in this process, in the manner of a handle's.

    It runs in a thread, so that a deadline can pass meanwhile. But two threads that
    both want the interpreter slow each other down to half: so the event loop stands
    still for a moment, and goes on beside the stage only when that takes longer.
    """

    def __init__(
        self,
        method: StageMethod,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Wrap a method.

        Args:
            method: what to run.
            patience_s: so long the event loop stands still for one answer.
        """
        self._method = method
        self._patience_s = patience_s
        # Its own: a stage that hangs takes no threads from the others.
        self._threads = ThreadPoolExecutor(_STAGE_THREADS, method.__name__)
        self._waits_from_s = 0.0
        self._running: dict[Future[StageAnswer], float] = {}

    @property
    def hangs_s(self) -> float:
        """Seconds that the oldest answer takes which is not there yet, 0 = none."""
        began = min(list(self._running.values()), default=None)
        return 0.0 if began is None else monotonic() - began

    def remote(
        self,
        release: str,
        page: PageView,
        creatives: np.ndarray,
        most_s: float = math.inf,  # noqa: ARG002 - what has begun in a thread runs on
    ) -> "asyncio.Future[StageAnswer]":
        """Run; the answer is there at once unless the stage is slow."""
        asked = self._threads.submit(self._method, release, page, creatives)
        if monotonic() >= self._waits_from_s:
            wait((asked,), self._patience_s)
            if not asked.done():
                self._waits_from_s = monotonic() + WARY_S
        if not asked.done():
            self._running[asked] = monotonic()
            asked.add_done_callback(lambda one: self._running.pop(one, None))
            return asyncio.wrap_future(asked)
        answer = asyncio.get_running_loop().create_future()
        error = asked.exception()
        if error is None:
            answer.set_result(asked.result())
        else:
            answer.set_exception(error)
        return answer


class StageRelease:
    """One release in a stage: its predictor, and what it made of recent pages.

    Selector and ranker of one process share it, so that a request is encoded once.
    """

    def __init__(self, predictor: StagePredictor) -> None:
        self.predictor = predictor
        self._columns = request_columns(predictor.fitted.spec.of("request"))
        self._pages: LRUCache[tuple[str, str], Any] = LRUCache(_PAGES_KEPT)
        self._lock = threading.Lock()

    def context(self, page: PageView) -> Any:  # noqa: ANN401 - the predictor's own
        """Return the encoded page; encoded now unless it is remembered."""
        return self._kept(
            "context",
            page,
            lambda: self.predictor.context(requests_table(page, self._columns)),
        )

    def context_part(self, page: PageView) -> Any:  # noqa: ANN401
        """Return the ranker's part of the page, as `context`."""
        return self._kept(
            "part", page, lambda: self.predictor.context_part(self.context(page))
        )

    def _kept(self, what: str, page: PageView, make: Callable[[], Any]) -> Any:  # noqa: ANN401
        key = (page.token, what)
        with self._lock:
            made = self._pages.get(key)
        if made is None:
            made = make()
            if page.token:
                with self._lock:
                    self._pages[key] = made
        return made


def load_predictor(bundle: str | Path) -> StagePredictor:
    """Open a bundle in a replica and try it out, with one thread per request.

    Replicas are processes and share few cores: more threads in each would only
    fight. The library reads the setting when it is first imported, hence here.

    Raises:
        InputError: not a whole bundle, or its golden requests get other scores than
            when it was made.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from cacs_ray.bundle import Predictor
    from cacs_ray.golden import replay_golden

    predictor = Predictor.load(bundle)
    # The first pass through a model is slow: no request shall pay for it either.
    replay_golden(bundle, predictor)
    return predictor
