"""The first stage: which creative of each ad, by the student's scores."""

import numpy as np

from serve.release import PageView, request_columns, requests_table
from serve.stage import LoadPredictor, StageAnswer, golden_page


class Selector:
    """Holds one release of the selector; plain Python, made a deployment in `app`."""

    def __init__(self, load: LoadPredictor) -> None:
        self._predictor = load()
        self._columns = request_columns(self._predictor.fitted.spec.of("request"))
        # The first pass through a model is slow: no request shall pay for it.
        self.selector_scores(self._predictor.bundle_id, *golden_page(self._predictor))

    def selector_scores(
        self, release: str, page: PageView, lists: np.ndarray
    ) -> StageAnswer:
        """Score every creative of every ad.

        Args:
            release: the bundle that must answer.
            page: the request, with its A candidate ads.
            lists: int32 [A, C] catalogue rows, 0 = padding.

        Returns:
            Scores float [A, C], or none if this is another release.
        """
        predictor = self._predictor
        if release != predictor.bundle_id:
            return StageAnswer(predictor.bundle_id, None)
        context = predictor.context(requests_table(page, self._columns))
        return StageAnswer(release, predictor.selector_scores(context, lists))
