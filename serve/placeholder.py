"""A picture drawn from an id, for creatives of which there is none."""

import html
from hashlib import sha256
from typing import Final

_MAX_LABEL: Final = 18
_SHAPES: Final = (
    '<circle cx="{x}" cy="{y}" r="{size}"/>',
    '<rect x="{x}" y="{y}" width="{size}" height="{size}" rx="8" '
    'transform="rotate({turn} {x} {y})"/>',
    '<path d="M{x} {y} l{size} {turn} l-{turn} {size} z"/>',
)


def placeholder(creative_id: str) -> str:
    """Return a picture as SVG that tells ids apart; equal ids, equal pictures.

    >>> placeholder("c1") == placeholder("c1") != placeholder("c2")
    True
    >>> "&lt;b&gt;" in placeholder("<b>")
    True
    """
    seed = sha256(creative_id.encode("utf-8", "surrogatepass")).digest()
    hue = seed[0] * 360 // 256
    shapes = "".join(
        f'<g fill="hsl({(hue + 40 + 35 * n) % 360} 62% {58 + 8 * n}%)">'
        + _SHAPES[seed[n + 1] % len(_SHAPES)].format(
            x=10 + seed[n + 4] % 110,
            y=5 + seed[n + 7] % 80,
            size=24 + seed[n + 10] % 46,
            turn=seed[n + 13] % 60,
        )
        + "</g>"
        for n in range(3)
    )
    label = html.escape(_label(creative_id))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 160 160" role="img">'
        f'<rect width="160" height="160" fill="hsl({hue} 45% 34%)"/>{shapes}'
        f'<rect y="128" width="160" height="32" fill="hsl({hue} 45% 20%)"/>'
        '<text x="80" y="149" fill="#fff" text-anchor="middle" '
        f'font-family="system-ui,sans-serif" font-size="14">{label}</text></svg>'
    )


def _label(creative_id: str) -> str:
    """Keep the end of a long id, which is what tells it apart."""
    printable = "".join(c if c.isprintable() else "?" for c in creative_id)
    if len(printable) <= _MAX_LABEL:
        return printable
    return f"…{printable[1 - _MAX_LABEL :]}"
