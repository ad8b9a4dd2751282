"""Candidate ads of some requests and the entities they name, encoded.

R requests, A candidate ads.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cacs_ray.features.batch import FeatureTensors
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
    """User and request fields, R rows; ad fields, A rows."""

    request: FeatureTensors
    ad: FeatureTensors
    request_index: Tensor
    """int64 [A]"""
    ad_row: np.ndarray
    """int [A]: row of each ad in the catalogue, 0 = unknown."""

    def joined(self, rows: slice) -> FeatureTensors:
        """user.*, request.* and ad.* fields of some ads, one row per ad."""
        index = self.request_index[rows]
        return {
            **{key: values[index] for key, values in self.request.items()},
            **{key: values[rows] for key, values in self.ad.items()},
        }

    def __len__(self) -> int:
        return len(self.request_index)
