"""How ads and creatives look to people: titles, facts and pictures.

They come from a dataset of the log contract; without one everything is drawn and
named by its id. The models see none of this.
"""

import functools
import io
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cachetools
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cacs_ray.data.casting import cast_table
from cacs_ray.data.dataset import read_dataset
from cacs_ray.data.declaration import Dataset
from cacs_ray.data.reading import file_schema, read_batches
from cacs_ray.errors import InputError
from cacs_ray.features.content_source import ContentSource
from cacs_ray.features.image import EFFICIENTNET_LITE0, upright_picture
from cacs_ray.ids import IdIndex
from cacs_ray.schema import Column
from serve.placeholder import placeholder

THUMBNAIL_SIDE: Final = 320
"""Pixels of the longer side of a picture as it is sent."""

_KEPT_PICTURES: Final = 512
_MAX_TEXT: Final = 300
_FACT_KINDS: Final = ("category", "number", "text")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture."""

    content: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class _Labels:
    """Declared columns of a table, found by id; empty where there is no table."""

    ids: IdIndex
    columns: pa.Table

    def of(self, ids: Sequence[str]) -> list[dict[str, object]]:
        """Return what is known of each id, without nulls; {} of an unknown one."""
        rows = self.ids.find(pa.array(ids, pa.string()))
        known = iter(self.columns.take(pa.array(rows[rows >= 0])).to_pylist())
        return [_without_nulls(next(known)) if row >= 0 else {} for row in rows]


class Display:
    """Titles, facts and pictures; reads a dataset's tables when first asked.

    All methods may take time and are safe in threads. A dataset that cannot be read
    any more is logged, and shown as if there was none.
    """

    def __init__(self, dataset: Dataset | None = None) -> None:
        self._dataset = dataset
        self._lock = threading.Lock()
        self._pictures: cachetools.LRUCache[str, Picture] = cachetools.LRUCache(
            _KEPT_PICTURES
        )

    def titles(self, creative_ids: Sequence[str]) -> list[str]:
        """Return the declared texts of each creative, "" where nothing is known."""
        texts = set(self._declared("creative", "text"))
        return [
            " · ".join(_shown(row[name]) for name in row if name in texts)
            for row in self._creatives.of(creative_ids)
        ]

    def facts(self, ad_ids: Sequence[str]) -> list[dict[str, str]]:
        """Return by column what is declared of each ad beside its ids."""
        return [
            {name: _shown(value) for name, value in row.items()}
            for row in self._ads.of(ad_ids)
        ]

    def picture(self, creative_id: str) -> Picture:
        """Return a creative's picture in small, or one drawn from its id."""
        with self._lock:
            kept = self._pictures.get(creative_id)
        if kept is None:
            content = self._stored_picture(creative_id)
            kept = (thumbnail(content) if content else None) or Picture(
                placeholder(creative_id).encode(), "image/svg+xml"
            )
            with self._lock:
                self._pictures[creative_id] = kept
        return kept

    @functools.cached_property
    def _creatives(self) -> _Labels:
        names = self._declared("creative", "text", "image")
        return self._read("creatives", Column.CREATIVE_ID, names)

    @functools.cached_property
    def _ads(self) -> _Labels:
        return self._read("ads", Column.AD_ID, self._declared("ad", *_FACT_KINDS))

    def _declared(self, side: str, *kinds: str) -> list[str]:
        features = self._dataset.features if self._dataset else ()
        columns = [f.column for f in features if f.of == side and f.kind in kinds]
        return list(dict.fromkeys(columns))

    def _read(self, table: str, key: str, names: Sequence[str]) -> _Labels:
        read = pa.table({key: pa.array([], pa.string())})
        if self._dataset is not None and names:
            try:
                read = _read_table(self._dataset, table, key, names)
            except InputError as error:
                _logger.warning("shown without %s: %s", table, error)
        return _Labels(IdIndex(read[key]), read.drop_columns([key]))

    def _stored_picture(self, creative_id: str) -> bytes | None:
        images = self._declared("creative", "image")
        if self._dataset is None or not images:
            return None
        path = self._creatives.of([creative_id])[0].get(images[0])
        try:
            if isinstance(path, str):
                # Paths stand in the table and stay in the dataset's directory.
                root = self._dataset.root.resolve()
                source = ContentSource("image", EFFICIENTNET_LITE0, root)
                return source.read(path.encode("utf-8", "surrogateescape"))
            return _stored_bytes(self._dataset, images[0], creative_id)
        except (InputError, OSError, pa.ArrowException) as error:
            _logger.warning("no picture of %r: %s", creative_id, error)
            return None


def open_dataset(directory: str | None) -> Dataset | None:
    """Read a dataset's description; None, and a warning, when it cannot be read.

    What people see beside the answers must not keep a service from starting.
    """
    if directory is None:
        return None
    try:
        return read_dataset(directory)
    except InputError as error:
        _logger.warning("the pages go without a dataset: %s", error)
        return None


def thumbnail(content: bytes) -> Picture | None:
    """Decode a picture and encode it anew in small; None when it is none."""
    picture = upright_picture(content)
    if picture is None:
        return None
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=85)
    return Picture(encoded.getvalue(), "image/jpeg")


def _read_table(
    dataset: Dataset, table: str, key: str, names: Sequence[str]
) -> pa.Table:
    """Read some columns of a table, each id once; pictures as bytes are left out."""
    layout = [c for c in dataset.layout(table) if c.name in (key, *names)]
    parts = []
    for file in dataset.files(table):
        schema = file_schema(file)
        light = [
            column
            for column in layout
            if column.source in schema.names and not _is_bytes(schema, column.source)
        ]
        for piece in read_batches(file, columns=[column.source for column in light]):
            parts.append(cast_table(piece, light).table)
    if not parts:
        raise InputError("no rows", source=dataset.tables.get(table), rule="readable")
    read = pl.DataFrame(pa.concat_tables(parts, promote_options="default"))
    return read.drop_nulls(key).unique(key, keep="first").to_arrow()


def _stored_bytes(dataset: Dataset, image: str, creative_id: str) -> bytes | None:
    """Return a picture that stands in a Parquet table itself."""
    sources = {c.name: c.source for c in dataset.layout("creatives")}
    key, column = sources[Column.CREATIVE_ID], sources[image]
    for file in dataset.files("creatives"):
        schema = file_schema(file)
        if column in schema.names and _is_bytes(schema, column):
            found = pq.read_table(
                file.open(), columns=[column], filters=[(key, "=", creative_id)]
            )
            if found.num_rows:
                return found[column][0].as_py()
    return None


def _is_bytes(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type
    return any(
        test(kind)
        for test in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
        )
    )


def _without_nulls(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if value is not None}


def _shown(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
