"""The serving graph with stages that can be told to fail, for fault injection.

A file says what is wrong now, such as {"selector": "slow"}; every call reads it, so
that faults come and go without a restart.
"""

import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ray.serve import Application

from cacs_ray.manifest import read_manifest
from cacs_ray.schema import Column
from serve.app import compose
from serve.arguments import AppArgs
from serve.board import Entry, ReleaseBoard
from serve.release import load_release
from serve.stage import StagePredictor, load_predictor
from serve.wiring import Wiring

SLOW_S = 1.5
DELAY_S = 0.005
LEAKED_BYTES = 256 * 2**10


class FaultyArgs(AppArgs):
    """The service's own settings, and where faults are written."""

    fault_file: str


class FaultyPredictor:
    """A predictor whose scores fail as the file says; golden requests always pass.

    Faults: `error` raises, `slow` sleeps, `delay` sleeps a little, `nan` gives no
    numbers, `exit` ends the process, `leak` keeps memory.
    """

    def __init__(self, predictor: StagePredictor, fault_file: str) -> None:
        self._predictor = predictor
        self._fault_file = Path(fault_file)
        self._leaked: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)

    def context(self, requests: Any) -> tuple[bool, Any]:
        is_golden = requests[Column.REQUEST_ID][0].as_py() == "golden"
        return is_golden, self._predictor.context(requests)

    def selector_scores(self, context: tuple[bool, Any], lists: Any) -> np.ndarray:
        scores = self._predictor.selector_scores(context[1], lists)
        return scores if context[0] else self._spoilt("selector", scores)

    def teacher_scores(self, context: tuple[bool, Any], lists: Any) -> np.ndarray:
        return self._predictor.teacher_scores(context[1], lists)

    def context_part(self, context: tuple[bool, Any]) -> Any:
        return self._predictor.context_part(context[1])

    def pctr(
        self, context: tuple[bool, Any], rows: Any, context_part: Any = None
    ) -> np.ndarray:
        pctr = self._predictor.pctr(context[1], rows, context_part)
        return pctr if context[0] else self._spoilt("ranker", pctr)

    def _spoilt(self, stage: str, scores: np.ndarray) -> np.ndarray:
        fault = json.loads(self._fault_file.read_text()).get(stage)
        if fault == "error":
            raise RuntimeError("this stage was told to fail")
        if fault == "slow":
            time.sleep(SLOW_S)
        if fault == "delay":
            time.sleep(DELAY_S)
        if fault == "nan":
            return np.full_like(scores, np.nan)
        if fault == "exit":
            os._exit(1)
        if fault == "leak":
            self._leaked.append(os.urandom(LEAKED_BYTES))
        return scores


def load_faulty(bundle: str, *, fault_file: str) -> FaultyPredictor:
    return FaultyPredictor(load_predictor(bundle), fault_file)


def build_app(args: FaultyArgs) -> Application:
    """Return the graph for one bundle."""
    bundle_id = str(read_manifest(Path(args.bundle))["bundle_id"])
    board = ReleaseBoard(Path(tempfile.mkdtemp(prefix="cacs-faulty-")))
    board.begin(Entry(bundle_id=bundle_id, path=args.bundle), args.kinds, ())
    load = partial(load_faulty, fault_file=args.fault_file)
    return compose(Wiring(args, board, {}, load_release, load))
