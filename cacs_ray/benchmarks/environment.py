"""The environment of the peers: made by the benchmarks, needed by nothing else."""

import subprocess
import tomllib
import venv
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

_PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def peer_requirements() -> list[str]:
    """Return the pinned packages of the extra `bench`, from the source or the wheel.

    Raises:
        RuntimeError: neither is at hand.
    """
    if _PYPROJECT.is_file():
        project = tomllib.loads(_PYPROJECT.read_text())["project"]
        pinned: list[str] = project["optional-dependencies"]["bench"]
        return pinned
    try:
        given = [Requirement(text) for text in requires("cacs-ray") or ()]
    except PackageNotFoundError as error:
        raise RuntimeError("the extra `bench` is not at hand") from error
    return [
        f"{r.name}{r.specifier}"
        for r in given
        if r.marker and r.marker.evaluate({"extra": "bench"})
    ]


def peer_python(out: Path) -> Path:
    """Return the interpreter of the peers' environment; the first call makes it.

    Args:
        out: where the benchmarks keep things.

    Raises:
        subprocess.CalledProcessError: a package cannot be installed.
    """
    root = out.absolute() / "peers"
    python, marker = root / "bin" / "python", root / "installed.txt"
    wanted = "\n".join(peer_requirements())
    if not marker.is_file() or marker.read_text() != wanted:
        venv.create(root, with_pip=True, clear=True, symlinks=True)
        quiet = ["-q", "--disable-pip-version-check", "--compile"]
        subprocess.run(
            [str(python), "-m", "pip", "install", *quiet, *wanted.split()], check=True
        )
        marker.write_text(wanted)
    return python
