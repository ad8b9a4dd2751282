"""What an operator says about creatives, before any model does.

Pins, exclusions and schedules decide which creatives there are to choose from; caps
bound the probability of a choice. All of it comes before the draw, so that the
propensity that is logged is the true one.

    K creatives   N ads   A candidate ads, flat   C creatives per list, padded
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from pydantic import AwareDatetime, Field, model_validator

from cacs_ray.config import Config


class CreativeControl(Config):
    """What is said about one creative."""

    creative_id: str
    is_excluded: bool = False
    """Never shown."""
    from_ts: AwareDatetime | None = None
    until_ts: AwareDatetime | None = None
    """Shown in [from, until) only, beside its own life; null = always."""
    max_share: float = Field(default=1.0, gt=0, le=1)
    """Of its ad's decisions; comes last, so that it also moves what is explored."""

    @model_validator(mode="after")
    def _check_schedule(self) -> "CreativeControl":
        if self.from_ts and self.until_ts and self.until_ts <= self.from_ts:
            raise ValueError("until_ts must come after from_ts")
        return self


class AdControl(Config):
    """What is said about one ad."""

    ad_id: str
    pinned_creative_id: str | None = None
    """Shown whenever the ad is and the creative may be, unless the request pins."""
    max_exploration: float | None = Field(default=None, ge=0, le=1)
    """Share of its decisions that may go to another creative than the best one."""


class Controls(Config):
    """All that is said; ads and creatives that are not named are free."""

    ads: tuple[AdControl, ...] = ()
    creatives: tuple[CreativeControl, ...] = ()
    max_exploration: float = Field(default=1.0, ge=0, le=1)
    """Of every ad without one of its own."""

    @model_validator(mode="after")
    def _check_ids(self) -> "Controls":
        named = [a.ad_id for a in self.ads], [c.creative_id for c in self.creatives]
        for ids in named:
            repeated = [one for one, times in Counter(ids).items() if times > 1]
            if repeated:
                raise ValueError(f"{repeated[0]!r} occurs twice")
        return self


_ALWAYS_FROM, _ALWAYS_UNTIL = np.iinfo(np.int64).min, np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class ControlRows:
    """Controls by the rows of one catalogue; row 0 is nobody's."""

    from_us: np.ndarray
    """int64 [K + 1]"""
    until_us: np.ndarray
    """int64 [K + 1]; an excluded creative has none left."""
    max_share: np.ndarray
    """float64 [K + 1], in (0, 1]"""
    pinned: np.ndarray
    """int32 [N + 1]: creative row, or 0."""
    max_exploration: np.ndarray
    """float64 [N + 1], in [0, 1]"""

    def allowed(self, lists: np.ndarray, ts_us: np.ndarray) -> np.ndarray:
        """Return lists without the creatives that may not be shown.

        Args:
            lists: int32 [A, C] catalogue rows, 0 = padding.
            ts_us: int64 [A], microseconds UTC.

        Returns:
            int32 [A, C], left-aligned, in the order of `lists`.
        """
        now = ts_us[:, None]
        is_allowed = (lists > 0) & (self.from_us[lists] <= now)
        is_allowed &= now < self.until_us[lists]
        return left_aligned(lists, is_allowed)


def left_aligned(lists: np.ndarray, is_kept: np.ndarray) -> np.ndarray:
    """Return of each list what is kept, in its order, then zeros.

    Args:
        lists: int32 [A, C].
        is_kept: bool [A, C].

    >>> left_aligned(np.array([[7, 8, 9]]), np.array([[False, True, True]]))
    array([[8, 9, 0]])
    """
    order = np.argsort(~is_kept, axis=1, kind="stable")
    aligned: np.ndarray = np.take_along_axis(np.where(is_kept, lists, 0), order, axis=1)
    return aligned


def control_rows(
    controls: Controls,
    creative_ids: tuple[str, ...],
    ad_ids: tuple[str, ...],
) -> ControlRows:
    """Look controls up in a catalogue.

    Args:
        controls: what is said; ids that the catalogue does not hold are left out:
            another release may.
        creative_ids: K + 1 ids by row, the first blank.
        ad_ids: N + 1 ids by row, the first blank.
    """
    creatives = {one: row for row, one in enumerate(creative_ids) if row}
    ads = {one: row for row, one in enumerate(ad_ids) if row}
    found = ControlRows(
        from_us=np.full(len(creative_ids), _ALWAYS_FROM),
        until_us=np.full(len(creative_ids), _ALWAYS_UNTIL),
        max_share=np.ones(len(creative_ids)),
        pinned=np.zeros(len(ad_ids), np.int32),
        max_exploration=np.full(len(ad_ids), controls.max_exploration),
    )
    for creative in controls.creatives:
        if row := creatives.get(creative.creative_id, 0):
            _bound(found, row, creative)
    for ad in controls.ads:
        if row := ads.get(ad.ad_id, 0):
            found.pinned[row] = creatives.get(ad.pinned_creative_id or "", 0)
            if ad.max_exploration is not None:
                found.max_exploration[row] = ad.max_exploration
    return found


def _bound(rows: ControlRows, row: int, creative: CreativeControl) -> None:
    rows.max_share[row] = creative.max_share
    if creative.from_ts:
        rows.from_us[row] = _micros(creative.from_ts)
    if creative.until_ts:
        rows.until_us[row] = _micros(creative.until_ts)
    if creative.is_excluded:
        rows.until_us[row] = _ALWAYS_FROM


def _micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6)
