"""Which code a run was made with."""

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import distributions, version
from pathlib import Path


def code_tags() -> dict[str, str]:
    """Return tags that name the commit, the program and the library versions.

    A submitted job carries the files alone, without their Git checkout: there the
    commit is that of `CACS_GIT_COMMIT`, changed if `CACS_GIT_DIRTY` is "true" and not
    if it is "false"; without the first it is "unknown".
    """
    commit, is_dirty = _commit()
    tags = {
        "git_commit": commit or "unknown",
        "ray_version": version("ray"),
        "torch_version": version("torch").partition("+")[0],
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.type": "LOCAL",
    }
    if commit:
        tags["mlflow.source.git.commit"] = commit
    if is_dirty:
        tags["git_dirty"] = is_dirty
    return tags


def environment_lock() -> str:
    """Return what is installed here: one `name==version` a line, in order of names.

    Comments above say which Python and platform, so that the whole is what
    `pip install -r` reads. Of a name that is installed twice the first on
    `sys.path` counts, as for an import; what has no name or version is left out.
    """
    installed: dict[str, str] = {}
    for found in distributions():
        name, release = found.metadata["Name"], found.metadata["Version"]
        if name and release:
            installed.setdefault(re.sub(r"[-_.]+", "-", name).lower(), release)
    about = f"# Python {platform.python_version()}\n# {platform.platform()}\n"
    return about + "".join(f"{name}=={installed[name]}\n" for name in sorted(installed))


def _commit() -> tuple[str, str]:
    """Return the commit and whether it was changed, "true" or "false"; "" = unknown."""
    commit = _git("rev-parse", "HEAD")
    if commit:
        return commit, str(bool(_git("status", "--porcelain"))).lower()
    commit = os.environ.get("CACS_GIT_COMMIT", "").strip()
    is_dirty = os.environ.get("CACS_GIT_DIRTY", "").strip().lower()
    return commit, is_dirty if commit and is_dirty in ("true", "false") else ""


def _git(*arguments: str) -> str:
    """Return what Git answers about this checkout; nothing if it cannot."""
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
