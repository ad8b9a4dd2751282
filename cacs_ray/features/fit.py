"""Fit the feature spec: vocabularies, scales and counts, on training rows alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.features.catalogue import Catalogue
from cacs_ray.features.content import default_text_encoder, encoder_size
from cacs_ray.features.counts import (
    RequestField,
    WindowCounts,
    beta_prior,
    count_window,
)
from cacs_ray.features.encode import ContentEncoder, vectors_of
from cacs_ray.features.kept import FittedFeatures
from cacs_ray.features.spec import FeatureSpec, FieldSpec
from cacs_ray.features.vocabulary import Vocabulary, stable_hash
from cacs_ray.schema import Column, Kind, Side

_ENTITY_IDS: Mapping[Side, str] = {
    "user": Column.USER_ID,
    "ad": Column.AD_ID,
    "creative": Column.CREATIVE_ID,
}


class FeatureConfig(Config):
    """How features are fitted."""

    text_encoder: Literal["auto", "hashed-ngrams", "all-minilm-l6-v2"] = "auto"
    """auto takes the sentence encoder when the extra `content` is installed."""
    image_encoder: Literal["efficientnet-lite0"] = "efficientnet-lite0"
    list_length: int = Field(default=20, ge=1, le=500)
    """Newest values kept of a category list."""
    max_values: int = Field(default=2_000_000, ge=1)
    """Values kept in one vocabulary; rarer ones fall into hash buckets."""
    num_buckets: int = Field(default=100_000, ge=1)
    """Hash buckets of a vocabulary that overflows."""
    min_impressions: float = Field(default=1.0, ge=0)
    """A value seen less often is not admitted to a vocabulary."""


class Declaration(Protocol):
    """A feature as `dataset.yaml` declares it."""

    name: str
    of: Side
    kind: Kind
    size: int | None
    column: str


@dataclass(frozen=True, slots=True)
class TrainingWindow:
    """Accepted impressions and the half-open time range to learn from."""

    files: Sequence[str]
    start_us: int
    end_us: int
    counts: Path | None = None
    """Directory where the sums of each file are kept; None keeps nothing."""


def fit_features(
    declarations: Sequence[Declaration],
    shared: Sequence[Sequence[str]],
    entities: Mapping[Side, pa.Table],
    window: TrainingWindow,
    config: FeatureConfig,
    content: ContentEncoder,
) -> FittedFeatures:
    """Fit everything that encoding needs, from the training window alone.

    Args:
        declarations: the features of `dataset.yaml`.
        shared: groups of feature names that share one vocabulary.
        entities: creatives, ads and users (0 rows when there is no users table).
        window: what to learn from.
        config: limits and encoders.
        content: encodes texts and images, to learn their scale.

    Returns:
        The fitted features. A value that no training impression carries has no
        index: it is unknown, today and when it is first asked for.
    """
    fields = [_field(d, shared, config) for d in declarations]
    counts = count_window(
        window.files,
        window.start_us,
        window.end_us,
        _request_fields(fields),
        {side: entities[side][name] for side, name in _ENTITY_IDS.items()},
        window.counts,
    )
    weighted = {side: _with_weight(entities[side], side, counts) for side in entities}
    vocabularies = {
        name: _fit_vocabulary(name, members, weighted, counts, config)
        for name, members in _by_vocabulary(fields).items()
    }
    scaled = [_with_scale(f, entities, weighted, counts, content) for f in fields]
    spec = FeatureSpec(
        fields=tuple(scaled),
        vocabularies=tuple(vocabularies[name].spec for name in sorted(vocabularies)),
    )
    catalogue = Catalogue.from_tables(entities["creative"], entities["ad"])
    return FittedFeatures(spec, vocabularies, _with_counts(catalogue, counts))


def _field(
    declared: Declaration, shared: Sequence[Sequence[str]], config: FeatureConfig
) -> FieldSpec:
    encoder, size, vocabulary = None, declared.size or 0, None
    if declared.kind == "text":
        auto = config.text_encoder == "auto"
        encoder = default_text_encoder() if auto else config.text_encoder
        size = encoder_size(encoder)
    elif declared.kind == "image":
        encoder = config.image_encoder
        size = encoder_size(encoder)
    elif declared.kind in ("id", "category", "category_list"):
        group = next((g for g in shared if declared.name in g), None)
        vocabulary = "+".join(group) if group else f"{declared.of}.{declared.name}"
        is_list = declared.kind == "category_list"
        size = (declared.size or config.list_length) if is_list else 0
    return FieldSpec(
        name=declared.name,
        of=declared.of,
        kind=declared.kind,
        column=declared.column,
        vocabulary=vocabulary,
        size=size,
        encoder=encoder,
    )


def _request_fields(fields: Sequence[FieldSpec]) -> list[RequestField]:
    return [
        RequestField(field.key, field.column, field.kind in ("number", "vector"))
        for field in fields
        if field.of == "request" and field.kind in _COUNTED
    ]


# No column of a log is called so; "weight" may well be one.
_SEEN = "impressions of the row"
_PIECE = 65_536
_COUNTED = ("id", "category", "category_list", "number", "vector")


def _by_vocabulary(fields: Sequence[FieldSpec]) -> dict[str, list[FieldSpec]]:
    groups: dict[str, list[FieldSpec]] = {}
    for field in fields:
        if field.vocabulary:
            groups.setdefault(field.vocabulary, []).append(field)
    return groups


def _with_weight(table: pa.Table, side: Side, counts: WindowCounts) -> pl.DataFrame:
    """Return scalar and string columns with the impressions behind each row."""
    name = _ENTITY_IDS[side]
    plain = [
        field.name
        for field in table.schema
        if not pa.types.is_binary(field.type) and not _is_vector(field.type)
    ]
    seen = counts.of(side).select(
        pl.col("value").alias(name), pl.col("weight").alias(_SEEN)
    )
    return pl.DataFrame(table.select(plain)).join(seen, on=name, how="left")


def _is_vector(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    ) and pa.types.is_floating(kind.value_type)


def _fit_vocabulary(
    name: str,
    members: Sequence[FieldSpec],
    weighted: Mapping[Side, pl.DataFrame],
    counts: WindowCounts,
    config: FeatureConfig,
) -> Vocabulary:
    parts = []
    for field in members:
        if field.of == "request":
            parts.append(counts.of(field.key).select("value", "weight"))
            continue
        rows = weighted[field.of].select(weight=_SEEN, value=field.column)
        if rows.schema["value"].base_type() == pl.List:
            rows = rows.explode("value")
        parts.append(rows.select(pl.col("value").cast(pl.String), "weight"))
    seen = (
        pl.concat(parts)
        .drop_nulls()
        .group_by("value")
        .agg(pl.col("weight").sum())
        .filter(pl.col("weight") >= config.min_impressions)
        .sort("weight", "value", descending=[True, False])
    )
    kept, rest = seen.head(config.max_values), seen.slice(config.max_values)
    num_buckets = config.num_buckets if rest.height else 0
    buckets = np.zeros(num_buckets)
    for value, weight in rest.iter_rows():
        buckets[stable_hash(value) % num_buckets] += weight
    return Vocabulary(
        name,
        kept["value"].to_arrow().cast(pa.string()),
        kept["weight"].to_numpy(),
        num_buckets=num_buckets,
        bucket_counts=buckets,
    )


def _with_scale(
    field: FieldSpec,
    entities: Mapping[Side, pa.Table],
    weighted: Mapping[Side, pl.DataFrame],
    counts: WindowCounts,
    content: ContentEncoder,
) -> FieldSpec:
    if field.kind == "number":
        mean, scale = _number_scale(field, weighted, counts)
        return field.model_copy(update={"mean": mean, "scale": scale})
    if field.encoding != "vector":
        return field
    # Texts of requests are unit vectors by contract of the text encoders.
    scale = field.size**-0.5
    if field.of == "request" and field.kind == "vector":
        sums = counts.of(field.key).select("weight", "squares").sum().row(0)
        scale = float(np.sqrt(sums[1] / sums[0])) if sums[0] else scale
    elif field.of != "request":
        column = entities[field.of][field.column]
        is_content = field.kind in ("text", "image")
        vectors = (
            content(field, column) if is_content else vectors_of(column, field.size)
        )
        scale = _root_mean_square(vectors) or scale
    return field.model_copy(update={"scale": scale if scale > 0 else 1.0})


def _root_mean_square(vectors: np.ndarray) -> float:
    """Of the known vectors, flag last; 0 when none is known."""
    total, num_known = 0.0, 0
    # In pieces: the vectors of a large catalogue are held once, not three times.
    for start in range(0, len(vectors), _PIECE):
        piece = vectors[start : start + _PIECE]
        known = piece[piece[:, -1] > 0, :-1]
        total += float(np.square(known, dtype=np.float64).sum())
        num_known += known.size
    return float(np.sqrt(total / num_known)) if num_known else 0.0


def _number_scale(
    field: FieldSpec, weighted: Mapping[Side, pl.DataFrame], counts: WindowCounts
) -> tuple[float, float]:
    if field.of == "request":
        sums = counts.of(field.key).select("weight", "total", "squares").sum().row(0)
    else:
        value = pl.col(field.column).cast(pl.Float64)
        seen = pl.col(_SEEN).fill_null(0.0)
        sums = (
            weighted[field.of]
            .filter(value.is_finite())
            .select(
                seen.sum(),
                total=(value * seen).sum(),
                squares=(value**2 * seen).sum(),
            )
            .row(0)
        )
    weight, total, squares = sums
    if not weight:
        return 0.0, 1.0
    mean = total / weight
    variance = max(squares / weight - mean**2, 0.0)
    return mean, float(np.sqrt(variance)) or 1.0


def _with_counts(catalogue: Catalogue, counts: WindowCounts) -> Catalogue:
    seen = counts.of("creative")
    clicks = np.zeros(len(catalogue.creative_ids))
    impressions = np.zeros(len(catalogue.creative_ids))
    rows = catalogue.creative_row(seen["value"].to_list())
    impressions[rows] = seen["weight"].to_numpy()
    clicks[rows] = seen["clicks"].to_numpy()
    impressions[0] = clicks[0] = 0.0
    prior = beta_prior(clicks[1:], impressions[1:])
    return replace(catalogue, clicks=clicks, impressions=impressions, prior=prior)
