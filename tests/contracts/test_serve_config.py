"""The file that users deploy names a builder that takes its arguments."""

import inspect

import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve.schema import ServeDeploySchema

from tests.contracts.sources import ROOT


@pytest.fixture
def application():
    text = (ROOT / "serve" / "config.yaml").read_text()
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications
    return application


def test_its_builder_is_there_and_takes_its_arguments(application):
    builder = import_attr(application.import_path)
    (parameter,) = inspect.signature(builder).parameters.values()
    parameter.annotation.model_validate(application.args)


def test_its_paths_mean_the_same_on_every_node(application):
    for name in ("bundle", "decision_log"):
        assert application.args[name].startswith("/")
