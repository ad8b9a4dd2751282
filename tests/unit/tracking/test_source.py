"""What a run says of the environment that it was made in."""

import platform
import re
from importlib.metadata import version

from cacs_ray.tracking import source
from cacs_ray.tracking.source import environment_lock

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
