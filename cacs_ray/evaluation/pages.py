"""How templates become pages: escaped, and strict about what is missing."""

from pathlib import Path

import jinja2

_SHARED = Path(__file__).parent / "templates"


def page_environment(templates: Path) -> jinja2.Environment:
    """Return what renders the templates of a directory, and those that pages share.

    Values are escaped; an undefined name raises instead of leaving a gap.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([templates, _SHARED]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
