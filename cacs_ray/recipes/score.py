"""A bundle on an encoded window: the scores that evaluation and calibration read."""

import numpy as np

from cacs_ray.bundle import Predictor
from cacs_ray.evaluation.scored_log import ScoredLog
from cacs_ray.features.batch import EncodedLog
from cacs_ray.features.context import Context
from cacs_ray.models.calibrating import Choices, fit_calibration
from cacs_ray.models.calibration import Calibration

_BLOCK = 16_384


def log_context(log: EncodedLog, rows: np.ndarray) -> Context:
    """Return logged impressions as candidate ads, one request each."""
    features = log.context(rows)
    return Context(
        request={k: v.numpy() for k, v in features.items() if not k.startswith("ad.")},
        ad={k: v for k, v in features.items() if k.startswith("ad.")},
        request_index=np.arange(len(rows)),
        ad_row=np.asarray(log.ad_row[rows]),
    )


def score_log(predictor: Predictor, log: EncodedLog) -> ScoredLog:
    """Score every creative of every logged list with all models of a bundle.

    Args:
        predictor: an open bundle over the log's own catalogue.
        log: the window, N impressions.

    Returns:
        What `evaluation.offline.evaluate` reads. `pctr` is calibrated and in the
        slot of each row.
    """
    lists = log.lists[log.list_row]
    lists = lists[:, : max(1, int((lists > 0).sum(1).max(initial=1)))]
    scores = {
        name: np.zeros(lists.shape, np.float32)
        for name in ("selector_scores", "teacher_scores", "pctr")
    }
    for start in range(0, len(log), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(log)))
        block = slice(rows[0], rows[-1] + 1)
        context, listed = log_context(log, rows), lists[block]
        scores["selector_scores"][block] = predictor.selector_scores(context, listed)
        scores["teacher_scores"][block] = predictor.teacher_scores(context, listed)
        logits = predictor.ranker_logits(context, listed, slot=log.slot[block])
        scores["pctr"][block] = predictor.calibration.probability(
            logits, predictor.catalogue.impressions[listed]
        )
    return ScoredLog(
        lists=lists,
        shown_index=np.asarray(log.shown_index),
        label=np.asarray(log.label),
        weight=np.asarray(log.weight),
        propensity=np.asarray(log.propensity),
        ad_row=np.asarray(log.ad_row),
        user_row=np.asarray(log.user_row),
        request_row=log.request_row,
        clicks=predictor.catalogue.clicks,
        impressions=predictor.catalogue.impressions,
        prior=predictor.catalogue.prior,
        **scores,
    )


def calibrate(predictor: Predictor, log: EncodedLog) -> Calibration:
    """Fit the serving ranker's calibration on a window later than training.

    The ranker is asked about CHOSEN creatives, and the best of noisy scores looks
    better than it is (winner's curse): see `models.calibrating`.
    """
    logits, seen, standout, is_chosen, of_best = [], [], [], [], []
    for start in range(0, len(log), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(log)))
        context = log_context(log, rows)
        lists = log.lists[log.list_row[rows]]
        scores = predictor.selector_scores(context, lists)
        above = _standout(scores, lists > 0)
        best = above.max(axis=1)
        shown = np.asarray(log.shown_index[rows])
        creative_row = lists[np.arange(len(rows)), shown]
        logits.append(
            predictor.ranker_logits(context, creative_row[:, None], slot=log.slot[rows])
        )
        standout.append(above[np.arange(len(rows)), shown])
        is_chosen.append(standout[-1] == best)
        of_best.append(best)
        seen.append(predictor.catalogue.impressions[creative_row])
    if not logits:
        return Calibration()
    weight = np.asarray(log.weight)
    return fit_calibration(
        np.concatenate(logits)[:, 0],
        np.asarray(log.label),
        weight,
        np.concatenate(seen),
        Choices(
            np.concatenate(standout),
            np.concatenate(is_chosen),
            float(np.average(np.concatenate(of_best), weights=weight)),
        ),
    )


def _standout(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return scores above the mean of their list, -inf for padding: float64 [N, C]."""
    real = np.where(mask, scores, 0.0).astype(np.float64)
    mean = real.sum(1, keepdims=True) / np.maximum(mask.sum(1, keepdims=True), 1)
    return np.where(mask, real - mean, -np.inf)
