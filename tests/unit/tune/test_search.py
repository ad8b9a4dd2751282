"""What a sweep of the selector or the ranker keeps to."""

import pytest

from cacs_ray.errors import InputError
from cacs_ray.recipes.config import run_config
from tests.contracts.sources import ROOT
from tune import ranker, student
from tune.search import default_values, keep_settings
from tune.sweep import SweepSettings

SEARCHES = {"student": student.SPACE, "ranker": ranker.SPACE}

each_search = pytest.mark.parametrize("name", SEARCHES)


@pytest.fixture
def settings():
    return SweepSettings(num_trials=4, metric="loss", max_epochs=2, steps_per_epoch=3)


@each_search
def test_every_searched_field_exists_and_accepts_what_is_drawn(name):
    config, space = getattr(run_config("small"), name), SEARCHES[name]
    drawn = {field: domain.sample() for field, domain in space.items()}
    changed = config.override(drawn)
    assert default_values(changed, space) == pytest.approx(drawn, nan_ok=False)


@each_search
def test_the_first_trial_is_the_configuration_as_it_stands(name):
    config = getattr(run_config("small"), name)
    assert config.override(dict(default_values(config, SEARCHES[name]))) == config


@each_search
def test_widths_and_rates_are_searched_too(name):
    wanted = {"model.dim", "loop.learning_rate", "loop.embedding_learning_rate"}
    assert wanted <= set(SEARCHES[name])


@each_search
def test_the_page_names_every_searched_field(name):
    page = (ROOT / "docs" / "tuning.md").read_text()
    for field, domain in SEARCHES[name].items():
        assert f"`{field}`" in page
        assert domain.domain_str


def test_a_sweep_is_not_resumed_with_other_settings(tmp_path, settings):
    keep_settings(settings, tmp_path)
    keep_settings(settings, tmp_path)
    with pytest.raises(InputError, match="num_trials"):
        keep_settings(settings.override({"num_trials": 5}), tmp_path)
