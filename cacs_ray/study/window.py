"""The window a unit is judged on: a scored log, and its truth where that is known."""

import io
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from cacs_ray.bundle import Predictor
from cacs_ray.data.files import write_bytes
from cacs_ray.evaluation.scored_log import ScoredLog
from cacs_ray.features.store import open_encoded
from cacs_ray.recipes.report import window_rows
from cacs_ray.recipes.score import score_log
from cacs_ray.recipes.truth import find_market
from cacs_ray.simulation.market import Market
from cacs_ray.simulation.value import list_probabilities

if TYPE_CHECKING:
    from cacs_ray.recipes.cycle import Cycle


@dataclass(frozen=True, slots=True)
class JudgedWindow:
    """N impressions after training, as every variant of a unit is judged on them."""

    scored: ScoredLog
    """With the scores of the full method, of its teacher and of its ranker."""
    true_ctr: np.ndarray | None
    """float64 [N, C]: click probability of every creative of each list in the row's
    slot, NaN for padding; None where nobody knows it."""

    def with_scores(self, selector_scores: np.ndarray) -> "JudgedWindow":
        """Return the same window as another selector scores it."""
        width = self.scored.lists.shape[1]
        return replace(
            self,
            scored=replace(self.scored, selector_scores=selector_scores[:, :width]),
        )

    def save(self, path: Path) -> None:
        """Write it whole."""
        arrays = {
            field.name: getattr(self.scored, field.name)
            for field in fields(self.scored)
            if getattr(self.scored, field.name) is not None
        }
        if self.true_ctr is not None:
            arrays["true_ctr"] = self.true_ctr
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **arrays)
        write_bytes(path, stream.getvalue())

    @classmethod
    def load(cls, path: Path) -> "JudgedWindow":
        """Open what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        true_ctr = arrays.pop("true_ctr", None)
        alpha, beta = arrays.pop("prior").tolist()
        return cls(ScoredLog(prior=(alpha, beta), **arrays), true_ctr)


def judged_window(cycle: "Cycle") -> JudgedWindow:
    """Score the test window of a finished cycle, and ask the market if there is one."""
    predictor = Predictor.load(cycle.out / "bundle")
    scored = score_log(predictor, open_encoded(cycle.work / "features", "test"))
    market = find_market(cycle.dataset.root)
    if market is None:
        return JudgedWindow(scored, None)
    files = [str(path) for path in cycle.validated.impression_files]
    rows = window_rows(files, cycle.windows.test)
    lists = _market_rows(market, predictor)[scored.lists]
    return JudgedWindow(scored, list_probabilities(market, rows, lists))


def _market_rows(market: Market, predictor: Predictor) -> np.ndarray:
    """Return the market's row of each row of the catalogue; the blank one is -1."""
    ids = pa.array(predictor.catalogue.creative_ids[1:], pa.string())
    return np.append(-1, market.creative_rows(ids)).astype(np.int32)
