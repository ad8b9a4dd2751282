"""Arrays -> batches: an encoded log in memory, and the tensors of some rows of it.

    N impressions   B rows of a batch   C creatives per list, padded
    K distinct creatives of a batch

Every entity table (users, ads, creatives) has row 0 = blank: the unknown user,
the padding creative. Tables are encoded once; impressions only point into them,
so a creative's features are read and its tower run once per batch, however often
it occurs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cacs_ray.features.spec import FeatureArrays

FeatureTensors = Mapping[str, Tensor]
"""The same as tensors; indices as int64. Those of a batch hold `ROW` besides."""

ROW = "row"
"""Key, beside the fields, of what names each row in its log: int64 impression number
or catalogue row."""

ListsWanted = Literal["shown", "clicked", "all"]
"""Rows whose whole list a model reads: none of them (only the shown creative), those
with a click, or all."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some impressions, ready for the models."""

    context: FeatureTensors
    """user.*, request.* and ad.* fields, B rows."""
    creatives: FeatureTensors
    """creative.* and ad.* fields of K distinct creatives; row 0 is the blank one."""
    creative_index: Tensor
    """int64 [B, C]: the list of each row, as rows of `creatives`; 0 = padding."""
    creative_mask: Tensor
    """bool [B, C]: True for a real creative."""
    shown_index: Tensor
    """int64 [B]: which column of the list was shown."""
    slot: Tensor
    """int64 [B]"""
    label: Tensor
    """float32 [B]: 1 for a click."""
    weight: Tensor
    """float32 [B]: impressions that a row stands for."""
    propensity: Tensor
    """float32 [B]: of the shown creative; NaN where the log has none."""
    list_length: Tensor
    """int64 [B]: creatives among which the log chose, also where only the shown
    one is in the list here."""
    catalogue_rows: Tensor
    """int64 [K]: rows of the creatives in the log's catalogue; 0 = blank."""
    teacher_logits: Tensor | None = None
    """float32 [B, C]: the ranker's scores of the whole list, if written."""


@dataclass(frozen=True, slots=True)
class EncodedLog:
    """Impressions as indices into encoded tables; arrays may be memory-mapped."""

    users: FeatureArrays
    ads: FeatureArrays
    creatives: FeatureArrays
    creative_ad_row: np.ndarray
    """int32 [creatives + 1]: row in `ads` of each creative; 0 for the blank."""
    requests: FeatureArrays
    """request.* fields, one row per impression, N rows."""
    lists: np.ndarray
    """int32 [L, C]: distinct candidate lists, rows of `creatives`, 0 = padding."""
    user_row: np.ndarray
    """int32 [N]"""
    ad_row: np.ndarray
    """int32 [N]"""
    list_row: np.ndarray
    """int32 [N]: row in `lists`."""
    shown_index: np.ndarray
    """int32 [N]: column of the shown creative in its list."""
    slot: np.ndarray
    """int32 [N]"""
    label: np.ndarray
    """float32 [N]"""
    weight: np.ndarray
    """float32 [N]"""
    propensity: np.ndarray
    """float32 [N]: NaN where the log has none."""
    request_ts: np.ndarray
    """int64 [N]: microseconds UTC."""
    bid_micros: np.ndarray
    """int64 [N]: 0 where the log has none."""
    request_row: np.ndarray
    """int32 [N]: number of the request (page view) inside this log."""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def list_lengths(self) -> np.ndarray:
        """int32 [N]: real creatives in the list of each impression."""
        lengths: np.ndarray = (self.lists > 0).sum(1).astype(np.int32)
        return lengths[self.list_row]

    def batch(
        self,
        rows: np.ndarray,
        teacher_logits: np.ndarray | None = None,
        *,
        wanted: ListsWanted = "all",
    ) -> Batch:
        """Return some rows as tensors.

        Args:
            rows: int [B], row numbers, in any order.
            teacher_logits: float [B, C'] scores of the lists, if they are taught;
                C' >= the longest list of the batch.
            wanted: rows whose whole list is in the batch; the others have only
                their shown creative in it.

        Returns:
            A batch whose lists are padded to the longest one in it.
        """
        lists = self.lists[self.list_row[rows]]
        shown = self.shown_index[rows].astype(np.int64)
        lengths = (lists > 0).sum(1)
        if wanted != "all":
            is_cut = np.full(len(rows), True)
            if wanted == "clicked":
                is_cut = self.label[rows] == 0
            lists, shown = _only_shown(lists, shown, is_cut)
        lists = lists[:, : max(1, int((lists > 0).sum(1).max(initial=1)))]
        distinct, index = np.unique(np.append(lists.ravel(), 0), return_inverse=True)
        index = index[:-1].reshape(lists.shape)
        taught = (
            None
            if teacher_logits is None
            else _as_tensor(teacher_logits[:, : lists.shape[1]], np.float32)
        )
        return Batch(
            context={**self.context(rows), ROW: as_index(rows)},
            creatives={**self.creative_features(distinct), ROW: as_index(distinct)},
            creative_index=_as_tensor(index, np.int64),
            creative_mask=torch.from_numpy(lists > 0),
            shown_index=_as_tensor(shown, np.int64),
            slot=_as_tensor(self.slot[rows], np.int64),
            label=_as_tensor(self.label[rows], np.float32),
            weight=_as_tensor(self.weight[rows], np.float32),
            propensity=_as_tensor(self.propensity[rows], np.float32),
            list_length=_as_tensor(lengths, np.int64),
            catalogue_rows=_as_tensor(distinct, np.int64),
            teacher_logits=taught,
        )

    def creative_features(self, creative_rows: np.ndarray) -> FeatureTensors:
        """Return creative.* and ad.* fields of catalogue rows, [K, ...]."""
        return creative_features(
            self.creatives, self.ads, self.creative_ad_row, creative_rows
        )

    def context(self, rows: np.ndarray) -> FeatureTensors:
        """Return user.*, request.* and ad.* fields of some rows, [B, ...]."""
        return {
            **take_rows(self.users, self.user_row[rows]),
            **take_rows(self.requests, rows),
            **take_rows(self.ads, self.ad_row[rows]),
        }


def _only_shown(
    lists: np.ndarray, shown: np.ndarray, is_cut: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Leave only the shown creative in some lists, in their first column."""
    alone = np.zeros_like(lists)
    alone[:, 0] = np.take_along_axis(lists, shown[:, None], axis=1)[:, 0]
    return np.where(is_cut[:, None], alone, lists), np.where(is_cut, 0, shown)


def take_arrays(arrays: FeatureArrays, rows: np.ndarray) -> FeatureArrays:
    """Gather rows of every field: integers become int64, the rest float32."""
    return {
        key: np.ascontiguousarray(
            array[rows],
            np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32,
        )
        for key, array in arrays.items()
    }


def as_tensors(arrays: FeatureArrays) -> FeatureTensors:
    """Return what `take_arrays` gives as tensors, without a copy."""
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


def take_rows(arrays: FeatureArrays, rows: np.ndarray) -> FeatureTensors:
    """Gather rows of every field as tensors, as `take_arrays`."""
    return as_tensors(take_arrays(arrays, rows))


def creative_features(
    creatives: FeatureArrays,
    ads: FeatureArrays,
    creative_ad_row: np.ndarray,
    creative_rows: np.ndarray,
) -> FeatureTensors:
    """Gather creative.* and ad.* fields of catalogue rows, [K, ...].

    Args:
        creatives: encoded creatives, row 0 blank.
        ads: encoded ads, row 0 blank.
        creative_ad_row: int [creatives + 1]: the ad of each creative.
        creative_rows: int [K].
    """
    return {
        **take_rows(creatives, creative_rows),
        **take_rows(ads, creative_ad_row[creative_rows]),
    }


def as_index(array: np.ndarray) -> Tensor:
    """Return integers as an int64 tensor."""
    return _as_tensor(array, np.int64)


def _as_tensor(array: np.ndarray, dtype: type) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=dtype))
