"""Small scored logs for the tests of evaluation."""

import dataclasses

import numpy as np

from cacs_ray.evaluation.scored_log import ScoredLog


def hats_and_shoes(**changes):
    """Eight impressions of two ads: a hat with rows 1, 2, a shoe with rows 3, 4, 5.

    The student likes 2 and 5, the teacher 2 and 4, counts like 1 and 3.
    """
    lists = np.array([[1, 2, 0]] * 4 + [[3, 4, 5]] * 4, np.int32)
    student = np.array([np.nan, 0.0, 1.0, 0.0, 0.5, 2.0])
    teacher = np.array([np.nan, 0.0, 3.0, 0.0, 9.0, 2.0])
    ctr = np.array([0.0, 0.2, 0.4, 0.1, 0.2, 0.3])
    log = ScoredLog(
        lists=lists,
        shown_index=np.array([0, 1, 1, 0, 0, 1, 2, 2]),
        label=np.array([0, 1, 0, 0, 0, 1, 1, 0], np.float32),
        weight=np.ones(8, np.float32),
        propensity=np.full(8, np.nan, np.float32),
        ad_row=np.array([1] * 4 + [2] * 4, np.int32),
        user_row=np.array([0, 1, 1, 2, 2, 0, 3, 3], np.int32),
        request_row=np.arange(8, dtype=np.int32),
        selector_scores=student[lists],
        teacher_scores=teacher[lists],
        pctr=ctr[lists],
        clicks=np.array([0.0, 9, 0, 50, 1, 0]),
        impressions=np.array([0.0, 10, 5, 500, 100, 2000]),
        prior=(1.0, 9.0),
    )
    return dataclasses.replace(log, **changes)


def simulated(seed, *, ads=60, rows=3000, logging="uniform", error=0.0):
    """Ads with four creatives of known CTR, and the truth of the student's choice.

    Args:
        seed: of the draws.
        ads: ads, each with the same traffic on average.
        rows: impressions.
        logging: `uniform`, or `biased` towards the first creative.
        error: spread of the student's scores around the true CTR.

    Returns:
        The log, the true CTR of the student's choices and that of random choice.
    """
    rng = np.random.default_rng(seed)
    ctr = np.append(0.0, rng.beta(4, 16, 4 * ads))
    own = 1 + np.arange(4 * ads, dtype=np.int32).reshape(ads, 4)
    ad = rng.integers(0, ads, rows)
    odds = {"uniform": [0.25] * 4, "biased": [0.55, 0.15, 0.15, 0.15]}[logging]
    shown = rng.choice(4, rows, p=odds)
    lists = own[ad]
    score = ctr + rng.normal(0, error, ctr.shape) if error else ctr
    zeros = np.zeros(4 * ads + 1)
    log = ScoredLog(
        lists=lists,
        shown_index=shown,
        label=rng.random(rows) < ctr[lists[np.arange(rows), shown]],
        weight=np.ones(rows),
        propensity=np.array(odds)[shown],
        ad_row=ad,
        user_row=rng.integers(0, 50, rows),
        request_row=np.arange(rows),
        selector_scores=score[lists],
        teacher_scores=ctr[lists],
        pctr=np.clip(score, 0.001, 0.999)[lists],
        clicks=zeros,
        impressions=zeros,
        prior=(4.0, 16.0),
    )
    chosen = ctr[own[np.arange(ads), score[own].argmax(1)]]
    return log, float(chosen.mean()), float(ctr[own].mean())
