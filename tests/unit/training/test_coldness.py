"""What the measured share of new creatives promises."""

from dataclasses import replace

import numpy as np
import pytest

from cacs_ray.training.coldness import cold_shares
from cacs_ray.training.rows import Rows
from cacs_ray.training.stage import StageInput
from tests import synthetic_log
from tests.synthetic_log import SPEC, make_log, spec_of


def inputs(spec=SPEC, **unseen: int) -> StageInput:
    """Counts of training in which the first indices of a vocabulary are unseen."""
    counts = synthetic_log.counts()
    for name, number in unseen.items():
        counts[name][1 : 1 + number] = 0
    return StageInput("x", spec, counts)


def test_it_is_the_weighted_share_of_impressions_of_unseen_creatives():
    log = make_log(400)
    # The first ad's four creatives were never shown in training.
    is_new = log.ad_row == 1
    weight = np.where(is_new, 3.0, 1.0).astype(np.float32)
    rows = Rows(replace(log, weight=weight), "shown")
    shares = cold_shares(inputs(creative_id=4), rows)
    assert shares["creative"] == pytest.approx(3 * is_new.sum() / weight.sum())
    assert shares["ad"] == 0


def test_a_side_without_identities_has_nothing_to_forget():
    spec = spec_of("creative.picture", "ad.topic")
    shares = cold_shares(inputs(spec), Rows(make_log(50), "shown"))
    assert shares == {"creative": 0, "ad": 0}


def test_without_later_rows_nothing_can_be_said():
    assert cold_shares(inputs(), None) == {}
