"""What two reports of one window can still tell of each other."""

from dataclasses import replace

import numpy as np
import pytest

from cacs_ray.evaluation.paired import compare_paired, paired_sums
from tests.unit.evaluation.logs import hats_and_shoes, simulated


def test_sums_add_up_to_the_figures_of_the_log():
    log, _, _ = simulated(0)
    sums = paired_sums(log)
    cacs = sums["policies"]["cacs"]
    chosen = log.selector_scores.argmax(1) == log.shown_index
    assert len(sums["weight"]) == 200
    assert sum(sums["weight"]) == len(log)
    assert sum(cacs["mass"]) == pytest.approx((chosen / log.propensity).sum())
    clicks = (chosen * log.label / log.propensity).sum()
    assert sum(cacs["clicks"]) == pytest.approx(clicks)


def test_a_surely_worse_model_is_told_from_the_same_impressions():
    good, _, _ = simulated(0)
    bad = replace(good, selector_scores=-good.selector_scores)
    paired = compare_paired(paired_sums(good), paired_sums(bad))
    assert paired["status"] == "ok"
    lift = paired["figures"]["snips_lift_cacs"]
    assert lift["is_sure"]
    assert lift["high"] < 0
    # The teacher is the same on both sides.
    same = paired["figures"]["snips_lift_teacher"]
    assert (same["value"], same["is_sure"]) == (0, False)


def test_better_probabilities_gain_nats():
    log = hats_and_shoes()
    flat = hats_and_shoes(pctr=np.full((8, 3), 0.9))
    gain = compare_paired(paired_sums(flat), paired_sums(log))["figures"]
    assert gain["log_loss_gain"]["value"] > 0


def test_other_impressions_are_said_to_be_others():
    first, second = (paired_sums(simulated(seed)[0]) for seed in (0, 1))
    paired = compare_paired(first, second)
    assert paired == {"status": "not the same window", "figures": {}}
    assert compare_paired({}, second)["status"] == "no sums"
