"""Figures on disk with what they were made from, so that no other study's are taken."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cacs_ray import __version__
from cacs_ray.data.files import read_json, write_json
from cacs_ray.errors import InputError


def kept(path: Path, made_from: Mapping[str, Any], make: Callable[[], Any]) -> Any:  # noqa: ANN401 - any JSON value
    """Return what a file holds, or make it and keep it.

    Args:
        path: the file; one that was made from something else is made again.
        made_from: JSON values that decide the outcome.
        make: returns JSON values.
    """
    if not is_kept(path, made_from):
        write_json(path, {"made_from": _whole(made_from), "value": make()})
    # Read back in any case: the order of what is summed up later is then the same.
    return read_json(path)["value"]


def is_kept(path: Path, made_from: Mapping[str, Any]) -> bool:
    """Tell whether a file holds what would be made."""
    return path.is_file() and read_json(path)["made_from"] == _whole(made_from)


def claim(path: Path, made_from: Mapping[str, Any], source: str) -> None:
    """Make a directory's file that says what all in it is made from.

    Raises:
        InputError: the directory was made from something else.
    """
    if is_kept(path, made_from):
        return
    if path.is_file():
        before, now = read_json(path)["made_from"], _whole(made_from)
        changed = sorted(name for name in now if before.get(name) != now[name])
        raise InputError(
            f"was made with other settings ({', '.join(changed)}); repeat them, or "
            "choose another --out",
            source=source,
            rule="same_study",
        )
    write_json(path, {"made_from": _whole(made_from)})


def _whole(made_from: Mapping[str, Any]) -> dict[str, Any]:
    return {"version": __version__, **made_from}
