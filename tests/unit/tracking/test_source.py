"""What a run says of the environment that it was made in."""

import platform
import re
from importlib.metadata import version

import pytest

from cacs_ray.tracking import source
from cacs_ray.tracking.source import code_tags, environment_lock

PIN = re.compile(r"[a-z0-9][a-z0-9-]*==\S+")


class Installed:
    """A distribution with this metadata."""

    def __init__(self, name, release):
        self.metadata = {"Name": name, "Version": release}


def pins(lock):
    return [line for line in lock.splitlines() if not line.startswith("#")]


def test_the_lock_names_every_package_once_in_order():
    lines = pins(environment_lock())
    assert lines == sorted(set(lines), key=lambda line: line.partition("==")[0])
    assert all(PIN.fullmatch(line) for line in lines)
    assert f"torch=={version('torch')}" in lines
    assert f"ray=={version('ray')}" in lines


def test_python_and_platform_are_comments():
    about = [line for line in environment_lock().splitlines() if line[0] == "#"]
    assert about == [
        f"# Python {platform.python_version()}",
        f"# {platform.platform()}",
    ]


def test_of_two_versions_the_one_that_is_imported_counts(monkeypatch):
    found = [
        Installed("Some_Package", "2.0"),
        Installed("some.package", "1.0"),
        Installed(None, None),
        Installed("another", "3"),
    ]
    monkeypatch.setattr(source, "distributions", lambda: found)
    assert pins(environment_lock()) == ["another==3", "some-package==2.0"]


def git_tags():
    tags = {name: value for name, value in code_tags().items() if "git" in name}
    assert tags.get("mlflow.source.git.commit", "unknown") == tags["git_commit"]
    return tags["git_commit"], tags.get("git_dirty")


@pytest.fixture
def said(monkeypatch):
    """Say what a submission says; what the developer has set must not be read."""

    def say(**values):
        for name in ("CACS_GIT_COMMIT", "CACS_GIT_DIRTY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return say


@pytest.mark.parametrize(
    ("status", "is_dirty"), [(" M README.md", "true"), ("", "false")]
)
def test_a_checkout_knows_best_what_it_is(monkeypatch, said, status, is_dirty):
    answers = {"rev-parse": "c0ffee", "status": status}
    monkeypatch.setattr(source, "_git", lambda command, *_: answers[command])
    said(CACS_GIT_COMMIT="beef", CACS_GIT_DIRTY="false")
    assert git_tags() == ("c0ffee", is_dirty)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ("unknown", None)),
        ({"CACS_GIT_COMMIT": "beef", "CACS_GIT_DIRTY": "true"}, ("beef", "true")),
        ({"CACS_GIT_COMMIT": "beef", "CACS_GIT_DIRTY": "false"}, ("beef", "false")),
        ({"CACS_GIT_COMMIT": "beef", "CACS_GIT_DIRTY": "?"}, ("beef", None)),
        ({"CACS_GIT_COMMIT": "beef"}, ("beef", None)),
        ({"CACS_GIT_DIRTY": "true"}, ("unknown", None)),
    ],
)
def test_without_one_the_submission_tells(monkeypatch, said, values, expected):
    monkeypatch.setattr(source, "_git", lambda *_: "")
    said(**values)
    assert git_tags() == expected
