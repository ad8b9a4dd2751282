"""The first stage: which creative of each ad, by the student's scores."""

import numpy as np

from serve.holder import Holds
from serve.release import PageView
from serve.stage import StageAnswer, StageRelease


class Selector:
    """Scores with the releases it holds; plain Python, made a deployment in `app`."""

    def __init__(self, releases: Holds[StageRelease]) -> None:
        self._releases = releases

    def selector_scores(
        self, release: str, page: PageView, lists: np.ndarray
    ) -> StageAnswer:
        """Score every creative of every ad.

        Args:
            release: the bundle that must answer.
            page: the request, with its A candidate ads.
            lists: int32 [A, C] catalogue rows, 0 = padding.

        Returns:
            Scores float [A, C], or none if this replica does not hold the release.
        """
        held = self._releases.get(release)
        if held is None:
            return StageAnswer("", None)
        scores = held.predictor.selector_scores(held.context(page), lists)
        return StageAnswer(release, scores)
