"""What the documents claim about files and commands is so."""

import importlib
import re
from pathlib import Path

import pytest

from tests.contracts.sources import ROOT, name_of, python_files

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/glossary.md",
    "docs/gate.md",
    "docs/tracking.md",
    "docs/tuning.md",
)
# Written by runs, or standing for the reader's own.
NOT_IN_THE_REPOSITORY = re.compile(
    r"^(out|work|rejects|gate|mlruns|market|logs|\.venv)\b|^dataset\.yaml$"
    r"|^report\.|^model_card\."
)
PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|toml|yaml|lock|py))`")
MODULE = re.compile(r"python -m ((?:jobs|tune)\.\w+)((?: [^\n`|]*(?:\\\n)?)*)")
TARGET = re.compile(r"^\s*make ([a-z0-9-]+)|`make ([a-z0-9-]+)", re.MULTILINE)


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_path_exists(name):
    paths = [
        p for p in PATH.findall(text_of(name)) if not NOT_IN_THE_REPOSITORY.search(p)
    ]
    assert [p for p in paths if not (ROOT / p).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_target_exists(name):
    targets = set(re.findall(r"^([a-z0-9-]+):", text_of("Makefile"), re.MULTILINE))
    named = {a or b for a, b in TARGET.findall(text_of(name))}
    assert named <= targets


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_has_its_options(name, capsys):
    for module, rest in MODULE.findall(text_of(name)):
        with pytest.raises(SystemExit):
            importlib.import_module(module).main(["--help"])
        known = capsys.readouterr().out
        for option in re.findall(r"--[a-z][a-z-]*", rest):
            assert option in known, f"{module} has no {option}"


def test_the_tree_in_the_readme_names_every_part():
    readme = text_of("README.md")
    parts = {
        name_of(path.parent if path.parent.parent.name == "cacs_ray" else path)
        for path in python_files()
        if path.name != "__init__.py"
    }
    tops = {part for part in parts if part.startswith("cacs_ray")}
    missing = [part for part in sorted(tops) if Path(part).name not in readme]
    assert missing == []
