"""What a sweep of the selector or the ranker keeps to."""

import json
from argparse import Namespace
from contextlib import nullcontext

import pytest

from cacs_ray.errors import InputError
from cacs_ray.recipes.config import run_config
from cacs_ray.tracking.client import NullTracker
from tests.contracts.sources import ROOT
from tests.synthetic_log import loop_config
from tune import ranker, search, student
from tune.begun import keep_settings
from tune.search import (
    default_values,
    outcome_note,
    run_search,
    search_parser,
    summary_metrics,
    sweep_settings,
)
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
    with pytest.raises(InputError, match="num_trials was 4, now 5"):
        keep_settings(settings.override({"num_trials": 5}), tmp_path)


@pytest.fixture
def records(monkeypatch, tmp_path):
    """What MLflow is told by sweeps whose shared stages cost nothing."""
    told, shared = [], Namespace(validate=lambda: None, report_to=lambda _: None)
    monkeypatch.setattr(search, "start_ray", nullcontext)
    monkeypatch.setattr(
        search,
        "read_dataset",
        lambda logs: Namespace(root=tmp_path / logs, digest=f"digest of {logs}"),
    )
    monkeypatch.setattr(search, "Cycle", lambda *_: shared)
    monkeypatch.setattr(search.Tracker, "open", lambda *_: NullTracker(told.append))
    return told


ARGUMENTS = ["--logs", "market", "--work", "run", "--recipe", "smoke", "--set"]
ARGUMENTS += ["teacher.loop.num_epochs=7"]


def begin(tmp_path, changes=(), stop_at="prepare", name="student"):
    """Begin a sweep, or go on with it, and stop before or at its first trial."""
    options = search_parser(None, name).parse_args(
        [*ARGUMENTS, *changes, "--out", str(tmp_path / "sweep")]
    )
    base = Namespace(loop=loop_config(), inputs=Namespace(encoded_dir=""))
    config = getattr(run_config("smoke"), name)

    def prepare(_):
        if stop_at == "prepare":
            raise KeyboardInterrupt
        return Namespace(base=base, config=config, space=SEARCHES[name])

    run_search(options, name, prepare)


def test_a_sweep_begins_with_its_whole_recipe(records, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path)

    assert records[0]["tags"]["recipe"] == "smoke"
    (params,) = [one["params"] for one in records if one["op"] == "log"]
    assert params["teacher.loop.num_epochs"] == "7"
    assert params["student.loop.batch_size"] == "512"


@pytest.fixture
def begun(monkeypatch, records, tmp_path):
    """A sweep that was killed in its first trial; its files."""

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "run_sweep", killed)
    monkeypatch.setattr(search, "open_encoded", lambda *_: range(150))
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path, stop_at="trial")
    records.clear()
    return lambda: {
        file.name: file.read_bytes() for file in (tmp_path / "sweep").glob("*.json")
    }


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["--set", "student.temperature=3"], r"student\.temperature was .*, now 3"),
        (["--set", "teacher.loop.num_epochs=8"], "num_epochs was 7, now 8"),
        (["--recipe", "small"], '--recipe was "smoke", now "small"'),
        (["--logs", "other"], 'digest of --logs was ".*market", now ".*other"'),
        (["--work", "other"], '--work was ".*run", now ".*other"'),
        (["--trials", "5"], "--trials was 24, now 5"),
    ],
)
def test_another_command_does_not_resume_a_sweep(
    begun, records, tmp_path, changes, told
):
    before = begun()
    with pytest.raises(InputError, match=told) as caught:
        begin(tmp_path, changes, stop_at="trial")
    assert caught.value.rule == "same_sweep"
    assert begun() == before
    assert records == []


def test_other_data_at_the_same_place_do_not_resume_a_sweep(
    begun, monkeypatch, tmp_path
):
    grown = Namespace(root=tmp_path / "market", digest="another")
    monkeypatch.setattr(search, "read_dataset", lambda _: grown)
    with pytest.raises(InputError, match=r'digest of --logs was .*, now "another"'):
        begin(tmp_path, stop_at="trial")


def test_the_same_command_goes_on(begun, records, tmp_path):
    before = begun()
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path, stop_at="trial")
    assert begun() == before
    assert records


def test_a_recipe_of_before_a_field_goes_on_where_the_field_is_its_default(
    begun, tmp_path
):
    file = tmp_path / "sweep" / "config.json"
    kept = json.loads(file.read_text())
    assert kept["student"].pop("negative_weight") == 1.0
    file.write_text(json.dumps(kept))
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path, stop_at="trial")


def test_what_stopped_before_its_first_trial_may_be_begun_otherwise(records, tmp_path):
    for changes in ([], ["--recipe", "small"]):
        with pytest.raises(KeyboardInterrupt):
            begin(tmp_path, changes)


def test_an_epoch_of_a_small_log_has_the_steps_of_all_its_passes(monkeypatch):
    monkeypatch.setattr(search, "open_encoded", lambda *_: range(150))
    loop = loop_config(num_epochs=3, batch_size=50, min_steps_per_epoch=7)
    wanted = Namespace(base=Namespace(loop=loop, inputs=Namespace(encoded_dir="")))
    options = Namespace(trials=4, search="tpe", concurrent=0)

    settings = sweep_settings(options, wanted)

    # 3 steps see every row once; the third pass is the one that makes 7 steps.
    assert (settings.max_epochs, settings.steps_per_epoch) == (3, 3 * 3)


def test_the_gain_is_told_with_its_bounds():
    gain = {"value": 0.001, "low": -0.0005, "high": 0.002}
    loss = {"best": 0.5, "default": 0.75}
    told = summary_metrics({"validation/click_loss": loss, "test": {"gain_nats": gain}})
    bounds = {f"summary/test_gain_nats{end}" for end in ("", "_low", "_high")}
    assert [told[name] for name in sorted(bounds)] == [0.001, 0.002, -0.0005]


@pytest.mark.parametrize(
    ("best", "is_better", "told"),
    [
        (0.5, True, "The best trial is better than the recipe"),
        (0.5, False, "The best trial is not surely better than the recipe"),
        (0.75, False, "No trial was better on the validation window"),
    ],
)
def test_the_outcome_says_whether_the_best_is_better_for_sure(best, is_better, told):
    gain = {"value": 0.001, "low": -0.0005, "high": 0.002}
    note = outcome_note(
        {
            "trials": 6,
            "finished": 4,
            "failed": 1,
            "best": {"model.dim": 32, "loop.learning_rate": 0.00123456},
            "validation/click_loss": {"best": best, "default": 0.75},
            "test": {"gain_nats": gain, "is_better": is_better},
        }
    )
    assert told in note
    assert ("1.00 [-0.50, 2.00] millinats" in note) is (best < 0.75)
    assert "0.001235 |" in note
    assert "6 trials: 4 trained to their end, 1 failed" in note
