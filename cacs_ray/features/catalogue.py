"""The catalogue: ad -> its creatives as of a moment, with what training saw of them.

Row 0 of ads and creatives is blank: the unknown ad, the padding creative.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cacs_ray.schema import Column

_ALWAYS_FROM = np.iinfo(np.int64).min
_ALWAYS_UNTIL = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Versions:
    """Which creatives of each ad were live when; what is live changes at moments.

    A version is the list of one ad between two changes of it. Its key is
    ad row x (moments + 1) + number of moments passed, so that one sorted search over
    all ads finds the version of (ad, time).
    """

    moments: np.ndarray
    """int64 [M]: when any list changes, microseconds, rising."""
    keys: np.ndarray
    """int64 [versions], rising."""
    lists: np.ndarray
    """int32 [versions, C]: catalogue rows, 0 = padding."""

    def find(self, ad_rows: np.ndarray, ts_us: np.ndarray) -> np.ndarray:
        """Return which list holds for each (ad, time), int64 [A]."""
        passed = np.searchsorted(self.moments, ts_us, side="right")
        wanted = ad_rows.astype(np.int64) * (len(self.moments) + 1) + passed
        found: np.ndarray = np.searchsorted(self.keys, wanted, side="right") - 1
        return found


@dataclass(frozen=True)
class Catalogue:
    """Creatives, their ads, their live windows and their training counts."""

    ad_ids: tuple[str, ...]
    """Ad ids by row; row 0 is "" (blank)."""
    creative_ids: tuple[str, ...]
    """Creative ids by row; row 0 is "" (blank)."""
    creative_ad_row: np.ndarray
    """int32 [K + 1]: the ad of each creative."""
    live_from_us: np.ndarray
    """int64 [K + 1]: first microsecond in which it may be shown."""
    live_until_us: np.ndarray
    """int64 [K + 1]: first microsecond in which it may not."""
    clicks: np.ndarray
    """float64 [K + 1]: weighted clicks in the training window."""
    impressions: np.ndarray
    """float64 [K + 1]: weighted impressions in the training window."""
    prior: tuple[float, float] = (1.0, 19.0)
    """Beta prior (alpha, beta) of a creative's CTR, fitted on training."""

    @classmethod
    def from_tables(cls, creatives: pa.Table, ads: pa.Table) -> "Catalogue":
        """Build a catalogue without counts from the contract's tables."""
        ad_ids = ads[Column.AD_ID]
        ad_row = pc.index_in(creatives[Column.AD_ID], value_set=ad_ids).combine_chunks()
        size = creatives.num_rows + 1
        return cls(
            ad_ids=("", *ad_ids.to_pylist()),
            creative_ids=("", *creatives[Column.CREATIVE_ID].to_pylist()),
            creative_ad_row=np.concatenate([[0], ad_row.to_numpy() + 1]).astype(
                np.int32
            ),
            live_from_us=_times(creatives, Column.LIVE_FROM_TS, _ALWAYS_FROM),
            live_until_us=_times(creatives, Column.LIVE_UNTIL_TS, _ALWAYS_UNTIL),
            clicks=np.zeros(size),
            impressions=np.zeros(size),
        )

    @cached_property
    def creative_id_array(self) -> pa.Array:
        """The creative ids as an Arrow array, to be gathered by row: [K + 1]."""
        return pa.array(self.creative_ids, pa.string())

    @cached_property
    def _ad_index(self) -> dict[str | None, int]:
        return {ad_id: row for row, ad_id in enumerate(self.ad_ids) if row}

    @cached_property
    def _creative_index(self) -> dict[str | None, int]:
        return {cid: row for row, cid in enumerate(self.creative_ids) if row}

    def ad_row(self, ad_ids: Sequence[str | None]) -> np.ndarray:
        """Return the row of each ad, int32; 0 for an ad that is not known."""
        return np.array([self._ad_index.get(a, 0) for a in ad_ids], np.int32)

    def creative_row(self, creative_ids: Sequence[str | None]) -> np.ndarray:
        """Return the row of each creative, int32; 0 where it is not known."""
        index = self._creative_index
        return np.array([index.get(c, 0) for c in creative_ids], np.int32)

    def counts(self, lists: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (clicks, impressions) of the training window by list, as given."""
        return self.clicks[lists], self.impressions[lists]

    @cached_property
    def versions(self) -> "Versions":
        """Every list of live creatives that ever holds."""
        ends = np.concatenate([self.live_from_us[1:], self.live_until_us[1:]])
        ads = np.tile(self.creative_ad_row[1:].astype(np.int64), 2)
        changes = (ends != _ALWAYS_FROM) & (ends != _ALWAYS_UNTIL)
        moments = np.unique(ends[changes])
        span = len(moments) + 1
        passed = np.searchsorted(moments, ends[changes], side="right")
        first = np.arange(len(self.ad_ids), dtype=np.int64) * span
        keys = np.unique(np.concatenate([first, ads[changes] * span + passed]))
        return Versions(moments, keys, self._version_lists(moments, keys, span))

    def _version_lists(
        self, moments: np.ndarray, keys: np.ndarray, span: int
    ) -> np.ndarray:
        rows = np.arange(1, len(self.creative_ids))
        ads = self.creative_ad_row[1:].astype(np.int64) * span
        born = np.searchsorted(moments, self.live_from_us[1:], side="right")
        born = np.where(self.live_from_us[1:] == _ALWAYS_FROM, 0, born)
        gone = np.searchsorted(moments, self.live_until_us[1:], side="right")
        gone = np.where(self.live_until_us[1:] == _ALWAYS_UNTIL, span, gone)
        # Each creative is live in the versions whose keys lie in [born, gone).
        start = np.searchsorted(keys, ads + born, side="left")
        stop = np.maximum(np.searchsorted(keys, ads + gone, side="left"), start)
        repeats = stop - start
        version = np.repeat(start, repeats) + _within(repeats)
        creative = np.repeat(rows, repeats)
        order = np.lexsort((creative, version))
        version, creative = version[order], creative[order]
        counts = np.bincount(version, minlength=len(keys))
        lists = np.zeros((len(keys), max(1, counts.max(initial=1))), np.int32)
        lists[version, _within(counts)] = creative
        return lists

    @property
    def version_lists(self) -> np.ndarray:
        """int32 [versions, C]: every list of live creatives that ever holds."""
        return self.versions.lists

    def version(self, ad_rows: np.ndarray, ts_us: np.ndarray) -> np.ndarray:
        """Return which version list holds for each (ad, time), int64 [A]."""
        return self.versions.find(ad_rows, ts_us)

    def lists(self, ad_rows: np.ndarray, ts_us: np.ndarray) -> np.ndarray:
        """Return the creatives live for each (ad, time).

        Args:
            ad_rows: int [A], 0 = unknown ad.
            ts_us: int [A], microseconds UTC.

        Returns:
            int32 [A, C]: catalogue rows in catalogue order, left-aligned, 0 =
            padding; all zeros for an unknown ad or when nothing is live. C is the
            longest of these lists, at least 1.
        """
        lists = self.version_lists[self.version(ad_rows, ts_us)]
        width = max(1, int((lists > 0).sum(1).max(initial=1)))
        cut: np.ndarray = lists[:, :width]
        return cut

    def with_counts_of(self, other: "Catalogue") -> "Catalogue":
        """Return this catalogue with the training counts another one holds."""
        rows = other.creative_row(self.creative_ids)
        return replace(
            self,
            clicks=other.clicks[rows],
            impressions=other.impressions[rows],
            prior=other.prior,
        )

    def to_tables(self) -> tuple[pa.Table, pa.Table]:
        """Return (creatives, ads) as tables; the blank rows are left out."""
        creatives = pa.table(
            {
                Column.CREATIVE_ID: list(self.creative_ids[1:]),
                "ad_row": self.creative_ad_row[1:],
                "live_from_us": self.live_from_us[1:],
                "live_until_us": self.live_until_us[1:],
                "clicks": self.clicks[1:],
                "impressions": self.impressions[1:],
            }
        )
        return creatives, pa.table({Column.AD_ID: list(self.ad_ids[1:])})

    @classmethod
    def from_kept_tables(
        cls, creatives: pa.Table, ads: pa.Table, prior: tuple[float, float]
    ) -> "Catalogue":
        """Rebuild a catalogue from `to_tables`."""

        def column(name: str, dtype: type) -> np.ndarray:
            return np.concatenate([[0], creatives[name].to_numpy()]).astype(dtype)

        return cls(
            ad_ids=("", *ads[Column.AD_ID].to_pylist()),
            creative_ids=("", *creatives[Column.CREATIVE_ID].to_pylist()),
            creative_ad_row=column("ad_row", np.int32),
            live_from_us=column("live_from_us", np.int64),
            live_until_us=column("live_until_us", np.int64),
            clicks=column("clicks", np.float64),
            impressions=column("impressions", np.float64),
            prior=prior,
        )


def _times(creatives: pa.Table, name: str, always: int) -> np.ndarray:
    """Return a live bound as int64 microseconds with the blank row in front."""
    if name not in creatives.column_names:
        bounds = np.full(creatives.num_rows, always)
        return np.concatenate([[0], bounds])
    bounds = creatives[name].cast(pa.int64()).fill_null(always).to_numpy()
    return np.concatenate([[0], bounds])


def _within(counts: np.ndarray) -> np.ndarray:
    """0, 1, .. inside each run: `_within([2, 1])` is `[0, 1, 0]`."""
    starts = np.cumsum(counts) - counts
    place: np.ndarray = np.arange(counts.sum()) - np.repeat(starts, counts)
    return place
