"""Texts and images of one dataset, through the encoders and their cache."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cacs_ray.data.dataset import Dataset
from cacs_ray.features.content import encode_content
from cacs_ray.features.fit import FeatureConfig
from cacs_ray.features.image import image_encoder
from cacs_ray.features.spec import FieldSpec
from cacs_ray.features.text import text_encoder


@dataclass(frozen=True, slots=True)
class DatasetContent:
    """A `ContentEncoder` for the tables of a dataset."""

    cache: Path
    """Directory of vectors by content digest, shared by runs."""
    root: Path
    """Directory that image paths are relative to, and confined to."""

    def __call__(self, field: FieldSpec, column: pa.ChunkedArray) -> np.ndarray:
        """Encode one column: float32 [N, size + 1], 1 last where known."""
        assert field.kind in ("text", "image")
        assert field.encoder is not None
        return encode_content(
            column, field.kind, field.encoder, cache=self.cache, root=self.root
        )


def require_encoders(dataset: Dataset, config: FeatureConfig) -> None:
    """Refuse, before any work, a dataset whose encoders are not installed.

    Raises:
        InputError: an image feature, or a text encoder that was asked for by
            name, needs `make setup-content`.
    """
    kinds = {feature.kind for feature in dataset.features}
    if "image" in kinds:
        image_encoder(config.image_encoder)
    if "text" in kinds and config.text_encoder != "auto":
        text_encoder(config.text_encoder)
