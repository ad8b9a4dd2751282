"""What a sweep of the selector keeps to."""

import pytest

from cacs_ray.errors import InputError
from cacs_ray.recipes.config import run_config
from tune.student import SPACE, default_values, keep_settings
from tune.sweep import SweepSettings


@pytest.fixture
def settings():
    return SweepSettings(num_trials=4, metric="loss", max_epochs=2, steps_per_epoch=3)


def test_every_searched_field_exists_and_accepts_what_is_drawn():
    config = run_config("small").student
    drawn = {name: domain.sample() for name, domain in SPACE.items()}
    changed = config.override(drawn)
    assert default_values(changed) == pytest.approx(drawn, nan_ok=False)


def test_the_first_trial_is_the_configuration_as_it_stands():
    config = run_config("small").student
    assert config.override(dict(default_values(config))) == config


def test_a_sweep_is_not_resumed_with_other_settings(tmp_path, settings):
    keep_settings(settings, tmp_path)
    keep_settings(settings, tmp_path)
    with pytest.raises(InputError, match="num_trials"):
        keep_settings(settings.override({"num_trials": 5}), tmp_path)
