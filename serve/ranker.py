"""The second stage: the CTR of each ad with the creative chosen for it."""

import numpy as np

from serve.holder import Holds
from serve.release import PageView
from serve.stage import StageAnswer, StageRelease


class Ranker:
    """Prices with the releases it holds; plain Python, made a deployment in `app`."""

    def __init__(self, releases: Holds[StageRelease]) -> None:
        self._releases = releases

    def open_page(
        self,
        release: str,
        page: PageView,
        creatives: np.ndarray,  # noqa: ARG002 - one signature for all stages
    ) -> StageAnswer:
        """Do what no choice of creatives changes, and remember it for `pctr`.

        Meant to run while the selector chooses. Another replica may be asked for the
        CTR then: it does this work itself.

        Returns:
            No scores.
        """
        held = self._releases.get(release)
        if held is not None:
            held.context_part(page)
        return StageAnswer(release, None)

    def pctr(
        self, release: str, page: PageView, creative_row: np.ndarray
    ) -> StageAnswer:
        """Return the calibrated CTR of every ad with its creative.

        Args:
            release: the bundle that must answer.
            page: the request, with its A candidate ads.
            creative_row: int32 [A] catalogue rows; 0 = creative not known yet.

        Returns:
            CTR float64 [A], or none if this replica does not hold the release.
        """
        held = self._releases.get(release)
        if held is None:
            return StageAnswer("", None)
        pctr = held.predictor.pctr(
            held.context(page), creative_row, held.context_part(page)
        )
        return StageAnswer(release, pctr)

    def teacher_scores(
        self, release: str, page: PageView, lists: np.ndarray
    ) -> StageAnswer:
        """Return the teacher's logit of every creative, float [A, C]; as `pctr`."""
        held = self._releases.get(release)
        if held is None:
            return StageAnswer("", None)
        scores = held.predictor.teacher_scores(held.context(page), lists)
        return StageAnswer(release, scores)
