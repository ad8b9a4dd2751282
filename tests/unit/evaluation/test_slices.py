"""Two releases on the same rows: the worse one shows, and where."""

import numpy as np
import pytest

from cacs_ray.evaluation.slices import compare_slices
from tests.unit.evaluation.logs import hats_and_shoes

PER_ROW = (
    *("lists", "shown_index", "label", "weight", "propensity", "ad_row"),
    *("user_row", "request_row", "selector_scores", "teacher_scores", "pctr"),
)


def repeated(**changes):
    """Repeat the eight impressions fifty times, each a request of its own."""
    log = hats_and_shoes(**changes)
    rows = {name: np.concatenate([getattr(log, name)] * 50) for name in PER_ROW}
    rows["request_row"] = np.arange(400, dtype=np.int32)
    return hats_and_shoes(**{**rows, "impressions": log.impressions})


def test_a_release_beside_itself_gains_nothing():
    figures = compare_slices(repeated(), repeated())
    assert figures["all"]["impressions"] == 400
    for part in figures.values():
        assert part["log_loss_gain"]["value"] == 0
        assert part["calibration"]["challenger"] == part["calibration"]["champion"]


def test_slices_are_cut_by_what_the_challenger_has_seen():
    figures = compare_slices(repeated(), repeated())
    # Shown creatives 1 2 2 1 3 4 5 5 were seen 10 5 5 10 500 100 2000 2000 times.
    sizes = {name: part["impressions"] for name, part in figures.items()}
    assert sizes == {"all": 400, "rare": 250, "frequent": 150}


def test_pctr_off_by_four_is_worse_everywhere_and_badly_calibrated():
    champion = repeated()
    challenger = repeated(pctr=hats_and_shoes().pctr / 4)
    figures = compare_slices(challenger, champion)
    for part in figures.values():
        assert part["log_loss_gain"]["high"] < 0
        before = part["calibration"]["champion"]
        assert part["calibration"]["challenger"] == pytest.approx(before / 4)


def test_worse_choices_show_in_the_lift():
    # The student's scores upside down: it then likes 1 and 3, which nobody clicks.
    upside_down = repeated(selector_scores=-hats_and_shoes().selector_scores)
    figures = compare_slices(upside_down, repeated())
    assert figures["all"]["choice_lift"]["value"] == pytest.approx(-100)
    assert figures["all"]["choice_lift"]["high"] < 0


def test_other_rows_are_not_compared():
    with pytest.raises(ValueError, match="different rows"):
        compare_slices(repeated(), repeated(label=1 - hats_and_shoes().label))
