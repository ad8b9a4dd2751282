"""Configuration: frozen, documented, and refusing what it does not know."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import pydantic
from pydantic import BaseModel, ConfigDict

from cacs_ray.errors import InputError

_MISSING = object()


class Config(BaseModel):
    """Base of every configured value; equal fields mean equal behaviour."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    def override(
        self, changes: Mapping[str, str | float | bool], *, source: str = "--set"
    ) -> Self:
        """Return a copy with dotted fields changed, everything checked again.

        Args:
            changes: dotted field name to new value; text is parsed by the
                field's own type, so values from a command line fit.
            source: the option that holds the changes, to be named in errors.

        Returns:
            A new configuration; the old one is untouched.

        Raises:
            InputError: a field does not exist (the nearest name is offered) or
                a value is outside its bounds.
        """
        tree: dict[str, Any] = self.model_dump()
        for dotted, value in changes.items():
            _set_field(tree, dotted, value, source)
        try:
            return type(self).model_validate(tree)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f"{first['msg']}, got {first['input']!r}",
                source=source,
                field=field,
                rule=first["type"],
            ) from error


def parse_changes(
    changes: Sequence[str], *, source: str = "--set"
) -> dict[str, str | float | bool]:
    """Return what `--set KEY=VALUE ...` says, for `Config.override`.

    Args:
        changes: KEY=VALUE each.
        source: the option that holds them, to be named in errors.

    Raises:
        InputError: a change has no `=`.

    >>> parse_changes(["student.temperature=2", "seed=7"])
    {'student.temperature': '2', 'seed': '7'}
    """
    parsed: dict[str, str | float | bool] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise InputError(
                f"{change!r} is not KEY=VALUE", source=source, rule="key_value"
            )
        parsed[key] = value
    return parsed


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """Say which fields of two nested mappings of JSON values differ, with both values.

    >>> differences({"loop": {"seed": 0}, "rows": 5}, {"loop": {"seed": 1}, "rows": 5})
    ['loop.seed was 0, now 1']
    >>> differences({"dim": 8}, {"dim": 8, "kind": "fixed"})
    ['kind was not there, now "fixed"']
    """
    found = []
    for name in dict.fromkeys([*before, *now]):
        was, is_now = (side.get(name, _MISSING) for side in (before, now))
        if isinstance(was, Mapping) and isinstance(is_now, Mapping):
            found += differences(was, is_now, f"{prefix}{name}.")
        elif was != is_now:
            found.append(f"{prefix}{name} was {_said(was)}, now {_said(is_now)}")
    return found


def _said(value: object) -> str:
    return "not there" if value is _MISSING else json.dumps(value)


def _set_field(tree: dict[str, Any], dotted: str, value: object, source: str) -> None:
    """Set one dotted field in a nested dictionary, or name the nearest one."""
    *parents, leaf = dotted.split(".")
    level: Any = tree
    for part in [*parents, leaf]:
        if not isinstance(level, dict) or part not in level:
            known = list(level) if isinstance(level, dict) else []
            near = difflib.get_close_matches(part, known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; known: {known}"
            raise InputError(
                f"no such field{hint}", source=source, field=dotted, rule="known_field"
            )
        if part is not leaf:
            level = level[part]
    level[leaf] = value
