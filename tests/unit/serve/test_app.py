"""What the graph promises before it runs: its arguments, its configuration file."""

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import DeploymentSchema, ServeDeploySchema

from serve import alone
from serve.app import RankerReplica, SelectorReplica, _stages, build_app, compose
from serve.arguments import AppArgs
from serve.board import ReleaseBoard
from serve.stage import StageAnswer
from serve.straight import LocalStages
from serve.wiring import Wiring

CONFIG = Path(__file__).parents[3] / "serve" / "config.yaml"


def deployment_names(application) -> set[str]:
    """Names of the graph's deployments, ingress first."""
    bound = application._bound_deployment
    names = {bound.name}
    for argument in (*bound.init_args, *bound.init_kwargs.values()):
        if hasattr(argument, "_bound_deployment"):
            names |= deployment_names(argument)
    return names


def graph(args):
    """The graph of a service whose board has not begun: nothing is started here."""
    nothing = ReleaseBoard("never-made")
    return compose(Wiring(args, nothing, {}, lambda _: None, lambda _: None))


class Handle:
    """A handle of a stage, which remembers what it was asked."""

    def __init__(self):
        self.asked = []
        self.answer = SimpleNamespace(remote=self._answer)

    async def _answer(self, questions):
        self.asked += [one.method for one in questions]
        return [StageAnswer(one.release, None) for one in questions]


async def ask(*methods):
    for method in methods:
        await method.remote("r1", None, np.zeros(0, np.int32), 1.0)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({}, {"Gateway", "Selector", "Ranker"}),
        ({"selector_in_gateway": True}, {"Gateway", "Ranker"}),
        ({"fused": True}, {"Gateway"}),
        ({"fused": True, "selector_in_gateway": True}, {"Gateway"}),
    ],
)
def test_stages_are_deployments_of_their_own_unless_in_the_gateway(said, names):
    args = AppArgs(bundle="any", **said)
    assert deployment_names(graph(args)) == names
    assert {kind.capitalize() for kind in args.kinds} == names


def test_with_the_selector_in_the_gateway_the_ranker_alone_is_asked_by_its_handle():
    def scores(*_):
        return None

    ranker = Handle()
    stages = _stages(LocalStages(scores, scores, scores), None, ranker, 2)
    assert stages.in_process == [stages.selector_scores]
    assert stages.open_page is None
    asyncio.run(ask(stages.teacher_scores, stages.pctr))
    assert ranker.asked == ["teacher_scores", "pctr"]


def test_each_stage_answers_by_the_names_that_the_gateway_asks(monkeypatch):
    selector, ranker = Handle(), Handle()
    stages = _stages(None, selector, ranker, 2)
    of_ranker = (stages.open_page, stages.teacher_scores, stages.pctr)
    asyncio.run(ask(stages.selector_scores, *of_ranker))
    assert selector.asked == ["selector_scores"]
    assert ranker.asked == ["open_page", "teacher_scores", "pctr"]
    for replica, asked in ((SelectorReplica, selector), (RankerReplica, ranker)):
        monkeypatch.setattr(replica, "_holder", None, raising=False)
        known = replica._methods(replica.__new__(replica))
        assert known.keys() == set(asked.asked)
        assert all(method.__name__ == name for name, method in known.items())


def test_following_a_champion_takes_a_process_of_its_own():
    args = AppArgs(bundle="any", fused=True, model="selector")
    assert deployment_names(graph(args)) == {"Gateway", "Follower"}


def test_a_directory_that_is_no_bundle_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(click.ClickException, match=r"not a bundle"):
        build_app(AppArgs(bundle=str(tmp_path)))


def test_arguments_come_as_text_and_unknown_ones_are_refused():
    args = AppArgs.model_validate({"bundle": "b", "fused": "true", "budget_ms": "80"})
    assert (args.fused, args.budget_ms) == (True, 80.0)
    with pytest.raises(ValidationError):
        AppArgs.model_validate({"bundle": "b", "budget": "80"})


def test_the_shipped_configuration_fits_the_graph():
    config = yaml.safe_load(CONFIG.read_text())
    (application,) = ServeDeploySchema.model_validate(config).applications

    args = AppArgs.model_validate(application.args)
    deployments = config["applications"][0]["deployments"]

    assert {d["name"] for d in deployments} == deployment_names(graph(args))
    # Ray ignores keys that it does not know: a typo would go unnoticed.
    for deployment in deployments:
        assert set(deployment) <= set(DeploymentSchema.model_fields)
    assert config["http_options"]["host"] == "127.0.0.1"


def test_what_the_configuration_offers_in_comments_is_valid():
    lines = CONFIG.read_text().splitlines()
    start, stop = lines.index("    args:"), lines.index("    deployments:")
    offered = [re.sub(r"^( +)# ?", r"\1", line) for line in lines[start:stop]]
    assert offered != lines[start:stop]

    args = AppArgs.model_validate(yaml.safe_load("\n".join(offered))["args"])

    assert args.model
    assert args.controls
    assert [arm.name for arm in args.experiment.arms] == ["next", "old_order"]
    assert args.experiment.shadow
    assert args.experiment.shadow != args.bundle


def test_the_shipped_scaling_has_no_key_that_ray_would_ignore():
    config = yaml.safe_load(CONFIG.read_text())
    for deployment in config["applications"][0]["deployments"]:
        scaling = deployment["autoscaling_config"]
        assert set(scaling) <= set(AutoscalingConfig.model_fields)
        assert scaling["min_replicas"] >= 1
        # More than these calls no gateway has under way, however busy a stage is.
        if deployment["name"] != "Gateway":
            most = config["applications"][0]["args"]["stage_calls"]
            assert scaling["target_ongoing_requests"] < most


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (["bundle"], "'bundle' is not KEY=VALUE"),
        ([], "bundle"),
        (["bundle=nowhere"], "nowhere"),
        (["bundle=b", "budget=1"], "budget_ms"),
        (["bundle=b", "port=http"], "port"),
        (["bundle=b", "port=65536"], "65536"),
        (["bundle=b", "ends_with=0"], "ends_with"),
        (["bundle=b", "allowed_hosts=ads.example:8000"], "ads.example:8000"),
    ],
)
def test_without_ray_a_wrong_argument_is_one_line(capsys, said, named):
    assert alone.main(said) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert named in captured.err
