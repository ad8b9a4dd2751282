"""Creatives as pictures: a product photo, laid out, coloured, titled, with a button.

The look is the hidden style: every value of every attribute has a style vector and
a creative's style is their sum, so whoever can see the picture can learn taste.

    K creatives    D style size    L attributes of a look
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pydantic
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from cacs_ray.config import Config
from cacs_ray.data.files import read_json
from cacs_ray.errors import InputError

SHIPPED_PICTURES: Final = Path(__file__).parent / "pictures_source"
PICTURE_SIZE: Final = 160
"""Pixels on each side of a creative."""

LOOK: Final[dict[str, tuple[str, ...]]] = {
    "layout": ("full", "framed", "banner"),
    "colour": ("red", "blue", "green", "sand", "night"),
    "tone": ("plain", "proud", "playful"),
    "action": ("Buy now", "See more", "Save today"),
    "crop": ("whole", "close"),
}
"""Attributes of a look and their values, in the order of its columns."""

_SCHEMES: Final[dict[str, tuple[str, str, str]]] = {
    "red": ("#b3202a", "#ffffff", "#ffd23f"),
    "blue": ("#1d4e9e", "#ffffff", "#7ee0ff"),
    "green": ("#2b7a3f", "#ffffff", "#d6ff6b"),
    "sand": ("#ead9b8", "#3b2a18", "#c4622d"),
    "night": ("#15151c", "#f2f2f2", "#b36bff"),
}
"""Ground, ink and accent of each colour."""

_TITLES: Final[dict[str, tuple[str, ...]]] = {
    "plain": ("{name}", "{name}, in stock", "{name} from our shop"),
    "proud": (
        "{name}: simply the best",
        "Finest {name}, award winner",
        "The one and only {name}",
    ),
    "playful": ("Hey, meet {name}!", "Surprise! {name} time", "Go wild with {name}!"),
}


class SourcePicture(Config):
    """One entry of `pictures.json`."""

    file: str
    """File name beside `pictures.json`."""
    name: str
    category: str
    price: float = pydantic.Field(gt=0)


@dataclass(frozen=True, slots=True)
class PictureSource:
    """Product photos and what is known of them."""

    pictures: tuple[SourcePicture, ...]
    directory: Path

    @property
    def category_names(self) -> tuple[str, ...]:
        """The distinct categories, sorted."""
        return tuple(sorted({picture.category for picture in self.pictures}))

    def of_ads(self, num_ads: int) -> np.ndarray:
        """Return which picture each ad sells, int64 [A]: in turn."""
        return np.arange(num_ads) % len(self.pictures)

    def category_of_ads(self, num_ads: int) -> np.ndarray:
        """Return indices into `category_names`, int16 [A]."""
        names = self.category_names
        index = np.array([names.index(p.category) for p in self.pictures], np.int16)
        return index[self.of_ads(num_ads)]


def read_pictures(directory: str | Path = SHIPPED_PICTURES) -> PictureSource:
    """Read a directory of product photos with their `pictures.json`.

    Raises:
        InputError: no list, an entry that is not one, or a photo that is missing.
    """
    directory = Path(directory)
    listing = directory / "pictures.json"
    try:
        entries = pydantic.TypeAdapter(tuple[SourcePicture, ...]).validate_python(
            read_json(listing)
        )
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            first["msg"],
            source=str(listing),
            field=".".join(map(str, first["loc"])),
            rule=first["type"],
        ) from error
    missing = [
        entry.file for entry in entries if not (directory / entry.file).is_file()
    ]
    if missing or not entries:
        raise InputError(
            f"no such picture: {missing[:3]}" if missing else "lists no pictures",
            source=str(listing),
            rule="picture_exists",
        )
    return PictureSource(entries, directory)


def draw_looks(ad_first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a look for every creative, all different inside one ad.

    Args:
        ad_first: int [A + 1], creatives of ad a are rows ad_first[a] .. [a + 1].
        rng: source of randomness.

    Returns:
        int8 [K, L], columns in the order of `LOOK`.
    """
    sizes = [len(values) for values in LOOK.values()]
    codes = [
        rng.choice(int(np.prod(sizes)), size, replace=False)
        for size in np.diff(ad_first)
    ]
    return np.stack(np.unravel_index(np.concatenate(codes), sizes), 1).astype(np.int8)


def style_of_looks(
    looks: np.ndarray, style_size: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the style of each look, float32 [K, D], about unit variance."""
    style = np.zeros((len(looks), style_size))
    for column, values in enumerate(LOOK.values()):
        vectors = rng.standard_normal((len(values), style_size))
        # Two values must differ as much as many do, or rare attributes vanish.
        vectors = (vectors - vectors.mean(0)) / np.sqrt(1 - 1 / len(values))
        style += vectors[looks[:, column]]
    return (style / np.sqrt(len(LOOK))).astype(np.float32)


def title_of_look(name: str, look: np.ndarray, variant: int) -> str:
    """Return a title in the tone of the look; `variant` takes one of its forms."""
    forms = _TITLES[_value(look, "tone")]
    return forms[variant % len(forms)].format(name=name)


def read_photo(path: Path) -> Image.Image:
    """Open a product photo as RGB; `InputError` when it is not a picture."""
    try:
        with Image.open(path) as photo:
            return photo.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(
            "is not a readable picture", source=str(path), rule="readable"
        ) from error


def compose(photo: Image.Image, look: np.ndarray, title: str) -> Image.Image:
    """Composite one creative.

    Args:
        photo: the product, RGB.
        look: int [L], see `LOOK`.
        title: drawn where the layout has room for text.

    Returns:
        RGB, `PICTURE_SIZE` square.
    """
    ground, ink, accent = _SCHEMES[_value(look, "colour")]
    if _value(look, "crop") == "close":
        width, height = photo.size
        photo = photo.crop(
            (
                int(width * 0.22),
                int(height * 0.22),
                int(width * 0.78),
                int(height * 0.78),
            )
        )
    canvas = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), ground)
    layout = _LAYOUTS[_value(look, "layout")]
    left, top, right, bottom = layout.photo
    small = ImageOps.fit(photo, (right - left, bottom - top))
    tint = Image.new("RGB", small.size, ground)
    canvas.paste(Image.blend(small, tint, 0.15), (left, top))
    draw = ImageDraw.Draw(canvas)
    _draw_title(draw, layout, title, ink)
    _draw_tone(draw, _value(look, "tone"), layout.photo, accent)
    _draw_action(draw, _value(look, "action"), layout.button, (ground, accent))
    return canvas


@dataclass(frozen=True, slots=True)
class _Layout:
    photo: tuple[int, int, int, int]
    """Left, top, right, bottom; the photo fills it and is cut, never squeezed."""
    text: tuple[int, int, int, int]
    """The same of the title, which is wrapped into it."""
    button: tuple[int, int]


_LAYOUTS: Final = {
    "full": _Layout((0, 0, 160, 112), (5, 114, 156, 140), (92, 141)),
    "framed": _Layout((24, 8, 136, 98), (24, 100, 156, 139), (48, 141)),
    "banner": _Layout((0, 0, 84, 160), (89, 12, 158, 124), (89, 128)),
}


_LINE_PIXELS: Final = 13


def _value(look: np.ndarray, attribute: str) -> str:
    return LOOK[attribute][int(look[list(LOOK).index(attribute)])]


def _draw_title(
    draw: ImageDraw.ImageDraw, layout: _Layout, title: str, ink: str
) -> None:
    """Write the title in lines that fit; what does not fit below is left out."""
    left, top, right, bottom = layout.text
    font = ImageFont.load_default(10)
    lines = [""]
    for word in title.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > right - left:
            lines.append(word)
        else:
            lines[-1] = longer
    room = (bottom - top) // _LINE_PIXELS
    draw.multiline_text((left, top), "\n".join(lines[:room]), ink, font, spacing=2)


def _draw_tone(
    draw: ImageDraw.ImageDraw,
    tone: str,
    photo: tuple[int, int, int, int],
    accent: str,
) -> None:
    """Proud has a double frame, playful a sticker, plain nothing."""
    left, top, right, bottom = photo
    if tone == "proud":
        draw.rectangle((left + 2, top + 2, right - 3, bottom - 3), None, accent, 2)
        draw.rectangle((left + 7, top + 7, right - 8, bottom - 8), None, accent, 1)
    if tone == "playful":
        draw.ellipse((right - 36, top + 4, right - 4, top + 36), accent)
        font = ImageFont.load_default(20)
        draw.text((right - 23, top + 7), "!", "#222222", font)


def _draw_action(
    draw: ImageDraw.ImageDraw,
    action: str,
    at: tuple[int, int],
    colours: tuple[str, str],
) -> None:
    """Each call to action has its words and its own form of button."""
    ground, accent = colours
    x, y = at
    box, font = (x, y, x + 64, y + 16), ImageFont.load_default(10)
    if action == "Buy now":
        draw.rectangle(box, accent)
    elif action == "Save today":
        draw.rounded_rectangle(box, 8, ground, accent, 2)
    else:
        draw.line((x, y + 15, x + 64, y + 15), accent, 2)
    ink = ground if action == "Buy now" else accent
    indent = (64 - font.getlength(action)) / 2
    draw.text((x + indent, y + 2), action, ink, font)
