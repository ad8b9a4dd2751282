"""The files that the contracts speak of."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("cacs_ray", "jobs", "serve", "tune")


@cache
def python_files() -> tuple[Path, ...]:
    """Return the source files of the product, tests left out."""
    files = (path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py")))
    return tuple(files)


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(), filename=str(path))


def name_of(path: Path) -> str:
    """Return a file's path as people write it."""
    return path.relative_to(ROOT).as_posix()


def module_names() -> list[str]:
    """Return every importable module."""
    names = []
    for path in python_files():
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(part for part in parts if part != "__init__"))
    return names


def entry_points() -> list[str]:
    """Return the modules that people start: jobs and sweeps."""
    starting = (ROOT / "jobs", ROOT / "tune")
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in python_files()
        if path.parent in starting and "def main(" in path.read_text()
    )
