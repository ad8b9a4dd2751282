"""The second stage: the CTR of each ad with the creative chosen for it."""

import numpy as np

from serve.release import PageView, request_columns, requests_table
from serve.stage import LoadPredictor, StageAnswer, golden_page


class Ranker:
    """Holds one release of the rankers; plain Python, made a deployment in `app`."""

    def __init__(self, load: LoadPredictor) -> None:
        self._predictor = load()
        self._columns = request_columns(self._predictor.fitted.spec.of("request"))
        # The first pass through a model is slow: no request shall pay for it.
        page, lists = golden_page(self._predictor)
        self.pctr(self._predictor.bundle_id, page, lists[:, 0])

    def pctr(
        self, release: str, page: PageView, creative_row: np.ndarray
    ) -> StageAnswer:
        """Return the calibrated CTR of every ad with its creative.

        Args:
            release: the bundle that must answer.
            page: the request, with its A candidate ads.
            creative_row: int32 [A] catalogue rows; 0 = creative not known yet.

        Returns:
            CTR float64 [A], or none if this is another release.
        """
        predictor = self._predictor
        if release != predictor.bundle_id:
            return StageAnswer(predictor.bundle_id, None)
        context = predictor.context(requests_table(page, self._columns))
        return StageAnswer(release, predictor.pctr(context, creative_row))

    def teacher_scores(
        self, release: str, page: PageView, lists: np.ndarray
    ) -> StageAnswer:
        """Return the teacher's logit of every creative, float [A, C]; as `pctr`."""
        predictor = self._predictor
        if release != predictor.bundle_id:
            return StageAnswer(predictor.bundle_id, None)
        context = predictor.context(requests_table(page, self._columns))
        return StageAnswer(release, predictor.teacher_scores(context, lists))
