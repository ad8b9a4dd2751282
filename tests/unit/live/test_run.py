"""What MLflow is told of a comparison as a whole."""

from cacs_ray.live.plan import LiveConfig
from cacs_ray.live.run import tell_settings
from cacs_ray.tracking.client import NullTracker


def told(config, *, is_new):
    """Return the parameters and the tags of a comparison's run."""
    records = []
    run = NullTracker(records.append).start_run("live")
    tell_settings(run, config, {"teacher.loop.num_epochs": "1"}, is_new=is_new)
    logged = [record for record in records if record["op"] == "log"]
    return [
        {name: value for one in logged for name, value in one.get(part, {}).items()}
        for part in ("params", "tags")
    ]


def test_days_seeds_and_arms_are_parameters():
    config = LiveConfig(days=2, seeds=(0, 1), arms=("greedy",))
    params, _ = told(config, is_new=True)
    assert params == {
        "recipe": "live",
        "days": "2",
        "seeds": "[0, 1]",
        "arms": '["greedy"]',
        "teacher.loop.num_epochs": "1",
    }


def test_what_has_grown_changes_no_parameter():
    config = LiveConfig(days=2, seeds=(0, 1, 2), arms=("greedy",))
    params, tags = told(config, is_new=False)
    assert not {"seeds", "arms"} & set(params)
    assert tags == {"seeds": "[0, 1, 2]", "arms": '["greedy"]'}
