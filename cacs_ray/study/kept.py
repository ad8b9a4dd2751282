"""Figures on disk with what they were made from, so that no other study's are taken."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cacs_ray import __version__
from cacs_ray.config import differences
from cacs_ray.data.files import read_json, write_json
from cacs_ray.errors import InputError

_MOST_TOLD: Final = 3


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
    refuse_other(path, made_from, source)
    if not path.is_file():
        write_json(path, {"made_from": _whole(made_from)})


def refuse_other(path: Path, made_from: Mapping[str, Any], source: str) -> None:
    """Do what `claim` does, but write nothing.

    Raises:
        InputError: the directory was made from something else; fields are named with
            both values.
    """
    if not path.is_file():
        return
    found = differences(read_json(path)["made_from"], _whole(made_from))
    if found:
        more = f" and {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
        raise InputError(
            f"was made with other settings ({'; '.join(found[:_MOST_TOLD])}{more}); "
            "repeat them, or choose another --out",
            source=source,
            rule="same_study",
        )


def _whole(made_from: Mapping[str, Any]) -> dict[str, Any]:
    return {"version": __version__, **made_from}
