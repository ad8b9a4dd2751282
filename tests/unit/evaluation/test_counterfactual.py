"""Would it have won? Right where the log explored, silent where it did not."""

import numpy as np
import pytest

from cacs_ray.errors import InputError
from cacs_ray.evaluation.counterfactual import LoggedChoices, would_have_won
from cacs_ray.evaluation.off_policy import OffPolicySettings

CTR = np.array([0.1, 0.3])
SETTINGS = OffPolicySettings(replicates=200)


def decided(epsilon, rows=8000, seed=0):
    """Log decisions between two creatives; the champion likes the poor one, 0."""
    rng = np.random.default_rng(seed)
    odds = np.array([1 - epsilon / 2, epsilon / 2])
    shown = rng.choice(2, rows, p=odds)
    return LoggedChoices(
        creative=np.tile([0, 1], (rows, 1)),
        shown_index=shown,
        propensity=odds[shown],
        label=(rng.random(rows) < CTR[shown]).astype(float),
        request=np.arange(rows),
    )


def always(column, rows=8000):
    """Return the policy that always chooses one column."""
    return np.tile(np.eye(2)[column], (rows, 1))


@pytest.mark.parametrize("estimator", ["snips", "dr"])
def test_the_interval_holds_what_other_choices_really_earn(estimator):
    answer = would_have_won(decided(0.3), always(1), settings=SETTINGS)
    estimate = answer["estimates"][estimator]
    assert answer["status"] == "ok"
    assert estimate["low"] < CTR[1] < estimate["high"]
    assert answer["lift"][estimator]["low"] > 50
    assert answer["mean_importance"] == pytest.approx(1, abs=0.1)


def test_the_champion_itself_wins_nothing():
    answer = would_have_won(decided(0.3), always(0), always(0), SETTINGS)
    assert answer["compared_with"] == "champion"
    assert answer["lift"]["snips"]["value"] == pytest.approx(0)
    assert answer["lift"]["dr"]["value"] == pytest.approx(0)


def test_a_worse_release_surely_loses():
    better = decided(0.3)
    turned = LoggedChoices(
        creative=1 - better.creative,
        shown_index=better.shown_index,
        propensity=better.propensity,
        label=(np.random.default_rng(1).random(8000) < CTR[1 - better.shown_index])
        * 1.0,
        request=better.request,
    )
    answer = would_have_won(turned, always(1), always(0), SETTINGS)
    assert answer["lift"]["snips"]["high"] < 0
    assert answer["lift"]["dr"]["high"] < 0


def test_a_log_without_exploration_cannot_tell():
    rows = 8000
    log = decided(0.0)
    assert (log.propensity == 1).all()
    # Both creatives are shown in the log, but never by chance.
    both = LoggedChoices(
        creative=log.creative,
        shown_index=np.arange(rows) % 2,
        propensity=np.ones(rows),
        label=log.label,
        request=log.request,
    )
    answer = would_have_won(both, always(1), settings=SETTINGS)
    assert answer["status"] == "refused"
    assert answer["unsupported_share"] == pytest.approx(0.5)
    assert "unsupported share" in answer["reason"]
    assert "estimates" not in answer


def test_little_exploration_is_thin_support():
    answer = would_have_won(decided(0.01), always(1), settings=SETTINGS)
    assert answer["status"] == "refused"
    assert answer["reason"].startswith("thin support: effective sample size")


def test_creatives_that_the_release_does_not_know_are_no_support():
    target = always(1)
    target[:4000] = 0
    answer = would_have_won(decided(0.3), target, settings=SETTINGS)
    assert answer["unsupported_share"] == pytest.approx(0.5)
    assert answer["status"] == "refused"


def test_a_propensity_of_nothing_is_refused():
    log = decided(0.3, rows=4)
    log.propensity[0] = 0
    with pytest.raises(InputError, match="probability"):
        would_have_won(log, always(1, 4))
