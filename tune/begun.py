"""With what a sweep was begun: who goes on with it must say the same.

Trials of one sweep are compared with each other. Were some trained with another recipe,
or on other data, the best of them would say nothing.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from cacs_ray.config import Config, differences
from cacs_ray.data.dataset import Dataset
from cacs_ray.data.files import read_json, write_json
from cacs_ray.errors import InputError
from tune.sweep import SweepSettings

SETTINGS: Final = "settings.json"
"""Written just before the first trial; what was refused earlier has begun nothing."""
CONFIG: Final = "config.json"
"""The whole recipe, as `record_start` keeps it."""
_ASKED: Final = "asked.json"
_MOST_TOLD: Final = 3


def asked_for(args: argparse.Namespace, name: str, dataset: Dataset) -> dict[str, Any]:
    """Return by option what a command asks for, beside fields of its recipe.

    Args:
        args: of `search.search_parser`.
        name: what is searched.
        dataset: the one of `--logs`.
    """
    return {
        "model": name,
        "--recipe": args.recipe,
        # A copy of a log is the same log.
        "digest of --logs": dataset.digest,
        "--work": str(Path(args.work).resolve()),
        "--trials": args.trials,
        "--search": args.search,
        "--concurrent": args.concurrent,
    }


def refuse_another(out: Path, asked: Mapping[str, Any], config: Config) -> None:
    """Refuse a command that is not the one that the sweep in `out` was begun with.

    Nothing is written, so that the sweep can still go on.

    Raises:
        InputError: an option or a field of the recipe differs; both values are named.
    """
    if not (out / SETTINGS).is_file():
        return
    found = []
    # A sweep of before has no file of its options.
    if (out / _ASKED).is_file():
        found += differences(read_json(out / _ASKED), asked)
    if (out / CONFIG).is_file():
        before = _as_read_now(read_json(out / CONFIG), config)
        found += differences(before, config.model_dump(mode="json"))
    if found:
        raise _refusal(found, out)


def keep_settings(
    settings: SweepSettings, out: Path, asked: Mapping[str, Any] | None = None
) -> None:
    """Keep what a new sweep is begun with; refuse to resume it with other settings.

    Args:
        settings: of the sweep.
        out: its directory.
        asked: as of `asked_for`; None keeps nothing of it.

    Raises:
        InputError: the sweep was begun with other settings; both values are named.
    """
    file = out / SETTINGS
    now = settings.model_dump()
    if file.is_file() and (found := differences(read_json(file), now)):
        raise _refusal(found, file)
    if asked is not None:
        write_json(out / _ASKED, asked)
    write_json(file, now)


def _as_read_now(kept: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    """Return a kept recipe with the defaults of fields that came after it."""
    try:
        return type(config).model_validate(kept).model_dump(mode="json")
    except ValidationError:
        return kept


def _refusal(found: list[str], source: Path) -> InputError:
    more = f" and {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
    return InputError(
        f"the sweep here was begun otherwise: {'; '.join(found[:_MOST_TOLD])}{more}; "
        "repeat its command, or choose another --out",
        source=str(source),
        rule="same_sweep",
    )
