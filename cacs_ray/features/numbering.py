"""Numbers of users, ads, creatives and values that last while a log grows.

A log that is fitted again with a day more would number its values anew, by their new
counts, and every row would have to be encoded again. So known ones keep their number,
new ones come after them, and scales stay as they were fitted first.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cacs_ray.features.kept import FittedFeatures, read_fitted, write_fitted
from cacs_ray.features.spec import FeatureSpec
from cacs_ray.features.vocabulary import Vocabulary
from cacs_ray.ids import IdIndex
from cacs_ray.schema import Column, Side

_MADE_FROM: Final = "made_from.json"
_USERS: Final = "users.parquet"


@dataclass(frozen=True, slots=True)
class LearntFrom:
    """What a numbering was made from; a later one may only have more of it."""

    settings: Mapping[str, Any]
    """JSON values that must be the same: configuration and declarations."""
    files: Sequence[str]
    """Digests of the accepted parts."""
    start_us: int
    end_us: int
    """The training window."""

    def is_more_than(self, before: "LearntFrom") -> bool:
        """Tell whether every training row of `before` is one here too.

        Only then is a value that has a number already one that training may know.
        """
        return (
            self.settings == before.settings
            and set(before.files) <= set(self.files)
            and self.start_us <= before.start_us
            and self.end_us >= before.end_us
        )


@dataclass(frozen=True, slots=True)
class Numbering:
    """Fitted features and the users in the order of their rows."""

    fitted: FittedFeatures
    user_ids: pa.Array

    @classmethod
    def open(cls, directory: Path, now: LearntFrom) -> "Numbering | None":
        """Open a numbering that `now` may continue; None where there is none."""
        path = directory / _MADE_FROM
        if not path.is_file():
            return None
        before = LearntFrom(**json.loads(path.read_text()))
        if not now.is_more_than(before):
            return None
        users = pq.read_table(directory / _USERS)[Column.USER_ID]
        return cls(read_fitted(directory), users.combine_chunks())

    def write(self, directory: Path, learnt_from: LearntFrom) -> None:
        """Write into an existing empty directory."""
        write_fitted(directory, self.fitted)
        users = pa.table({Column.USER_ID: self.user_ids})
        pq.write_table(users, directory / _USERS)
        made_from = {name: getattr(learnt_from, name) for name in LearntFrom.__slots__}
        (directory / _MADE_FROM).write_text(json.dumps(made_from))

    def order(self, entities: Mapping[Side, pa.Table]) -> dict[Side, pa.Table] | None:
        """Put known entities where they stood, new ones after them.

        Returns:
            The same rows; None when an entity is gone or a creative has another ad.
        """
        catalogue = self.fitted.catalogue
        known: dict[Side, tuple[str, pa.Array]] = {
            "user": (Column.USER_ID, self.user_ids),
            "ad": (Column.AD_ID, pa.array(catalogue.ad_ids[1:], pa.string())),
            "creative": (
                Column.CREATIVE_ID,
                pa.array(catalogue.creative_ids[1:], pa.string()),
            ),
        }
        ordered: dict[Side, pa.Table] = {}
        for side, (name, ids) in known.items():
            rows = IdIndex(entities[side][name]).find(ids)
            if (rows < 0).any():
                return None
            new = np.setdiff1d(np.arange(len(entities[side])), rows)
            ordered[side] = entities[side].take(pa.array(np.append(rows, new)))
        ad_rows = IdIndex(ordered["ad"][Column.AD_ID]).find(
            ordered["creative"][Column.AD_ID]
        )
        is_same = ad_rows[: len(catalogue.creative_ids) - 1] + 1
        return (
            ordered if np.array_equal(is_same, catalogue.creative_ad_row[1:]) else None
        )

    def continued(self, fresh: FittedFeatures) -> FittedFeatures | None:
        """Give freshly fitted features the numbers and scales of this numbering.

        Args:
            fresh: fitted with entities in the order that `order` gave them.

        Returns:
            None when a vocabulary has hash buckets: they stand after its values, so
            that one value more would move them.
        """
        before = self.fitted.vocabularies
        vocabularies = {}
        for name, vocabulary in fresh.vocabularies.items():
            if vocabulary.num_buckets or before[name].num_buckets:
                return None
            vocabularies[name] = _continued(before[name], vocabulary)
        scales = {field.key: field for field in self.fitted.spec.fields}
        fields = tuple(
            field.model_copy(
                update={
                    "mean": scales[field.key].mean,
                    "scale": scales[field.key].scale,
                }
            )
            for field in fresh.spec.fields
        )
        spec = FeatureSpec(
            fields=fields,
            vocabularies=tuple(
                vocabularies[name].spec for name in sorted(vocabularies)
            ),
        )
        return FittedFeatures(spec, vocabularies, fresh.catalogue)


def _continued(before: Vocabulary, fresh: Vocabulary) -> Vocabulary:
    """Keep the order of known values; those that are new follow in theirs."""
    row = IdIndex(before.values).find(fresh.values)
    is_new = row < 0
    counts = np.zeros(len(before.values))
    counts[row[~is_new]] = fresh.counts[1:][~is_new]
    return Vocabulary(
        before.name,
        pa.concat_arrays([before.values, fresh.values.filter(pa.array(is_new))]),
        np.append(counts, fresh.counts[1:][is_new]),
    )
