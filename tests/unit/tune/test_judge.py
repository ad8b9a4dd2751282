"""How two selectors are judged on a window that no trial saw."""

import numpy as np
import pytest
import torch

from cacs_ray.models.selector import Selector
from tests import synthetic_log
from tests.synthetic_log import SPEC, make_log, selector_config
from tune.judge import judge


def test_a_judgement_is_the_log_loss_and_the_choice_of_every_impression():
    log = make_log(300)
    selector = Selector(SPEC, selector_config("none"), synthetic_log.counts()).eval()

    judged = judge(selector, log)

    batch = log.batch(np.arange(300))
    with torch.no_grad():
        scores = selector.score(
            selector.user_vectors(batch.context),
            selector.creative_vectors(batch.creatives),
            batch.creative_index,
        )
        offset = selector.click_offset(batch.context) + selector.position(batch.slot)
    shown = scores[torch.arange(300), batch.shown_index] + offset
    chance = 1 / (1 + np.exp(-shown.double().numpy()))
    happened = np.where(log.label > 0, chance, 1 - chance)
    np.testing.assert_allclose(judged.click_loss, -np.log(happened), rtol=1e-5)
    best = [
        int(
            np.argmax(
                [s if real else -np.inf for s, real in zip(row, mask, strict=True)]
            )
        )
        for row, mask in zip(scores.tolist(), batch.creative_mask.tolist(), strict=True)
    ]
    assert judged.is_shown.tolist() == (best == log.shown_index).tolist()
    assert 0 < judged.is_shown.mean() < 1
    assert judged.click_loss.mean() == pytest.approx(np.log(2), abs=0.3)
