"""The one error that is the caller's: input that breaks a named rule."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """What was handed over breaks a rule; jobs print it on one line and exit 1.

    Args:
        message: what is wrong and what would be right, in one line.
        source: the file (or command-line option) that holds the mistake.
        field: the key, column or row in it.
        rule: the name of the broken rule, as in the log contract.

    >>> print(InputError("kind 'ctegory' is unknown, did you mean 'category'?",
    ...                  source="dataset.yaml", field="features[2].kind",
    ...                  rule="known_kind"))
    dataset.yaml: features[2].kind: kind 'ctegory' is unknown, did you mean \
'category'? [known_kind]
    """

    def __init__(
        self,
        message: str,
        *,
        source: str | None = None,
        field: str | None = None,
        rule: str | None = None,
    ) -> None:
        self.source, self.field, self.rule = source, field, rule
        where = "".join(f"{part}: " for part in (source, field) if part)
        text = " ".join(f"{where}{message}".split())
        super().__init__(f"{text} [{rule}]" if rule else text)


@contextmanager
def naming_file(
    path: str | Path, problem: str, *kinds: type[Exception]
) -> Iterator[None]:
    """Tell what a library cannot read by the name of its file.

    Args:
        path: what the body reads.
        problem: what is then wrong with it, in some words.
        kinds: errors of the library; others pass through.

    Raises:
        InputError: the body raised one of `kinds`; rule `readable`.

    >>> with naming_file("a.json", "is not whole JSON", ValueError):
    ...     int("x")
    Traceback (most recent call last):
    cacs_ray.errors.InputError: a.json: is not whole JSON: invalid literal for \
int() with base 10: 'x' [readable]
    """
    try:
        yield
    except kinds as error:
        raise InputError(
            f"{problem}: {error}", source=str(path), rule="readable"
        ) from error
