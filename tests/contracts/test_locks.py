"""The lock files hold what the project declares, exactly."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.contracts.sources import ROOT

PIN = re.compile(r"^([\w.-]+)==([\w.]+)$")


def pins(name):
    """Return package -> version of a lock file; every line must be a plain pin."""
    lines = (ROOT / name).read_text().splitlines()
    entries = [line for line in lines if line and not line.startswith("#")]
    found = [PIN.match(line) for line in entries]
    assert all(found), [e for e, f in zip(entries, found, strict=True) if not f]
    return {canonicalize_name(f[1]): f[2] for f in found if f}


def declared(extra=None):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = (
        project["optional-dependencies"][extra] if extra else project["dependencies"]
    )
    return [Requirement(text) for text in named]


@pytest.mark.parametrize(
    ("extra", "lock"),
    [
        (None, "requirements.lock"),
        ("dev", "requirements.lock"),
        ("content", "requirements-content.lock"),
    ],
)
def test_every_declared_package_is_pinned_within_its_bounds(extra, lock):
    pinned = pins(lock)
    for requirement in declared(extra):
        version = pinned[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, requirement.name


def test_the_two_locks_do_not_repeat_each_other():
    assert not set(pins("requirements.lock")) & set(pins("requirements-content.lock"))
