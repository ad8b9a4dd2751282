"""Which code a run was made with."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path


def code_tags() -> dict[str, str]:
    """Return tags that name the commit, the program and the library versions.

    Outside a Git checkout the commit is "unknown": a submitted job carries the
    files alone.
    """
    commit = _git("rev-parse", "HEAD")
    tags = {
        "git_commit": commit or "unknown",
        "ray_version": version("ray"),
        "torch_version": version("torch").partition("+")[0],
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.type": "LOCAL",
    }
    if commit:
        tags["git_dirty"] = str(bool(_git("status", "--porcelain"))).lower()
        tags["mlflow.source.git.commit"] = commit
    return tags


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
