"""The one error that is the caller's: input that breaks a named rule."""


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
