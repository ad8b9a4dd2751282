"""Candidate ads of some requests and the entities they name, encoded.

R requests, A candidate ads.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cacs_ray.features.batch import FeatureTensors, take_rows
from cacs_ray.features.spec import FeatureArrays


@dataclass(frozen=True, slots=True)
class Entities:
    """Encoded entity tables; row 0 of each is blank."""

    users: FeatureArrays
    ads: FeatureArrays
    creatives: FeatureArrays
    user_index: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Context:
    """Candidate ads, ready for the models."""

    request: FeatureArrays
    """User and request fields, R rows: int64 or float32. Arrays, because a selector
    answers a single request without tensors."""
    ad: FeatureTensors
    """Ad fields, A rows."""
    request_index: np.ndarray
    """int64 [A]"""
    ad_row: np.ndarray
    """int [A]: row of each ad in the catalogue, 0 = unknown."""
    user_row: np.ndarray | None = None
    """int64 [R]: row of each request's user among the entities, 0 = unknown; None when
    their fields come from elsewhere."""

    @property
    def is_shared(self) -> bool:
        """Whether one row serves every ad: one request, or no such field at all."""
        return all(len(values) == 1 for values in self.request.values())

    @property
    def only_user(self) -> int | None:
        """Row of the one user of all ads; None where there are several or none."""
        rows = self.user_row
        return None if rows is None or len(rows) != 1 else int(rows[0])

    def joined(self, rows: slice) -> FeatureTensors:
        """user.*, request.* and ad.* fields of some ads, one row per ad."""
        index = self.request_index[rows]
        return {
            **take_rows(self.request, index),
            **{key: values[rows] for key, values in self.ad.items()},
        }

    def __len__(self) -> int:
        return len(self.request_index)
