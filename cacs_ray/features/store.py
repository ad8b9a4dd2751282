"""The encoded log on disk: raw arrays, memory-mapped when opened.

    spec.json vocabularies/ catalogue/      what was fitted
    entities/{users,ads,creatives}/         encoded once, row 0 blank
    lists.npy                               distinct candidate lists
    train/ validation/ test/                impressions as indices into the above

Rows keep the order of the files. A window is written column by column as raw
little-endian numbers, each task its own rows, so that no process ever holds more of
the log than one batch.
"""

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray

from cacs_ray.features.batch import EncodedLog
from cacs_ray.features.encode import ContentEncoder, encode_rows, with_blank_row
from cacs_ray.features.kept import (
    ENTITY_SIDES,
    FittedFeatures,
    read_catalogue,
    read_fitted,
    write_fitted,
)
from cacs_ray.features.rows import RowEncoder
from cacs_ray.features.shards import encode_files, place_all
from cacs_ray.features.spec import FeatureArrays
from cacs_ray.features.windows import (
    REQUEST_ROW,
    ROW_COLUMNS,
    Windows,
    make_window,
    number_requests,
    open_window,
    write_lists,
)
from cacs_ray.ids import IdIndex
from cacs_ray.schema import Column, Side


@dataclass(frozen=True, slots=True)
class AcceptedRows:
    """The impressions to encode."""

    files: Sequence[str]
    """In order, no file twice, at least one."""
    windows: Mapping[str, tuple[int, int]]
    """Name -> [start, end) in microseconds; other rows are left out."""
    shards: Path | None = None
    """Directory of files encoded before with the numbers of the same fitted features,
    or of those that they continue; only what `files` needs stays in it. None keeps
    nothing."""


def write_store(
    out: Path,
    fitted: FittedFeatures,
    entities: Mapping[Side, pa.Table],
    rows: AcceptedRows,
    content: ContentEncoder,
) -> dict[str, int]:
    """Encode entities and impressions into a directory (which must exist).

    Args:
        out: where to write; make it visible only when this has returned.
        fitted: what `fit_features` left.
        entities: creatives, ads and users.
        rows: accepted impressions.
        content: encodes texts and images.

    Returns:
        Rows written by window.
    """
    encoder = _row_encoder(fitted, entities, content)
    wanted = Windows(rows.windows, fitted.catalogue.versions, encoder.request_columns)
    # The workers encode the log meanwhile.
    with ThreadPoolExecutor(1) as beside:
        written = beside.submit(
            _write_fitted_and_entities, out, fitted, entities, content
        )
        shards = rows.shards or out / "shards"
        encoded = encode_files(rows.files, shards, encoder, wanted)
    written.result()
    num_rows, stated = encoded.num_rows, encoded.stated
    for name, count in num_rows.items():
        make_window(out / name, count, wanted)
    place_all(encoded, out, wanted, stated)
    number = ray.remote(num_cpus=1)(number_requests)
    ray.get([number.remote(out / name) for name in num_rows])
    write_lists(out / "lists.npy", wanted.versions, list(stated))
    if rows.shards is None:
        shutil.rmtree(out / "shards")
    return num_rows


def _write_fitted_and_entities(
    out: Path,
    fitted: FittedFeatures,
    entities: Mapping[Side, pa.Table],
    content: ContentEncoder,
) -> None:
    write_fitted(out, fitted)
    for name, side in ENTITY_SIDES.items():
        encoded = encode_rows(
            entities[side], fitted.spec, fitted.vocabularies, side, content=content
        )
        _write_arrays(
            out / "entities" / name, with_blank_row(encoded, fitted.spec, side)
        )


def _row_encoder(
    fitted: FittedFeatures, entities: Mapping[Side, pa.Table], content: ContentEncoder
) -> RowEncoder:
    wanted = {field.vocabulary for field in fitted.spec.of("request")}
    return RowEncoder(
        spec=fitted.spec,
        vocabularies={n: v for n, v in fitted.vocabularies.items() if n in wanted},
        entities={
            "user": IdIndex(entities["user"][Column.USER_ID]),
            "ad": IdIndex(pa.array(fitted.catalogue.ad_ids[1:], pa.string())),
            "creative": IdIndex(
                pa.array(fitted.catalogue.creative_ids[1:], pa.string())
            ),
        },
        content=content,
    )


def _write_arrays(directory: Path, arrays: FeatureArrays) -> None:
    directory.mkdir(parents=True)
    for key, array in arrays.items():
        np.save(directory / f"{key}.npy", array, allow_pickle=False)


def _open_arrays(directory: Path) -> dict[str, np.ndarray]:
    return {
        path.stem: np.load(path, mmap_mode="r", allow_pickle=False)
        for path in sorted(directory.glob("*.npy"))
    }


def open_encoded(directory: str | Path, window: str) -> EncodedLog:
    """Open one window of an encoded log; nothing is read before it is used.

    Args:
        directory: what `write_store` wrote.
        window: `train`, `validation` or `test`.
    """
    root = Path(directory)
    entities = {name: _open_arrays(root / "entities" / name) for name in ENTITY_SIDES}
    catalogue = read_catalogue(root / "catalogue")
    columns = open_window(root / window)
    own = (*ROW_COLUMNS, REQUEST_ROW)
    request_keys = [key for key in columns if key not in own]
    return EncodedLog(
        users=entities["users"],
        ads=entities["ads"],
        creatives=entities["creatives"],
        creative_ad_row=catalogue.creative_ad_row,
        requests={key: columns.pop(key) for key in request_keys},
        lists=np.load(root / "lists.npy", allow_pickle=False),
        **columns,
    )


def open_fitted(directory: str | Path) -> FittedFeatures:
    """Open the spec, vocabularies and catalogue of an encoded log."""
    return read_fitted(Path(directory))
