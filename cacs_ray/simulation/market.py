"""The truth of a synthetic market: everything that decides whether a click comes.

    logit = base + user + topic affinity + ad quality            (of user and ad)
          + taste . style + appeal + residual                    (of the creative)
          + slot + device

Rows of users: 0 is the visitor nobody knows (no taste, no topics), then the users
of the log, then those who come only afterwards. Creatives of one ad are adjacent.

    U users + 1    A ads    K creatives    D style size    N asked at once
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from cacs_ray.data.files import read_json, write_bytes, write_json
from cacs_ray.errors import InputError
from cacs_ray.schema import REQUESTS, TIMESTAMP, Column
from cacs_ray.simulation.recipes import MarketRecipe

Ids: TypeAlias = Sequence[str | None] | pa.Array | pa.ChunkedArray

DEVICE: Final = "device"
"""The declared request column of every market."""
DEVICES: Final = ("mobile", "desktop", "tablet")
DAY_US: Final = 86_400_000_000
START_US: Final = 1_740_960_000_000_000
"""Midnight before the first request: 2025-03-03 UTC."""
ALWAYS_US: Final = np.iinfo(np.int64).min
NEVER_US: Final = np.iinfo(np.int64).max
TOPIC_WEIGHTS: Final = (1.0, 0.6, 0.3)
"""Affinity to ads of a user's first, second and third topic."""


@dataclass(frozen=True)
class Market:
    """The parameters; `draw_market` makes one, `load` opens one."""

    recipe: MarketRecipe
    seed: int
    base_logit: float
    category_names: tuple[str, ...]
    user_taste: np.ndarray
    """float32 [U, D]"""
    user_topics: np.ndarray
    """int16 [U, 3]: categories, best first, -1 = none."""
    user_bias: np.ndarray
    """float32 [U], logit"""
    user_group: np.ndarray
    """int16 [U, 2]: age band and region, which shift the taste."""
    user_weight: np.ndarray
    """float64 [U]: share of requests during the log, 0 for row 0 and new users."""
    ad_category: np.ndarray
    """int16 [A]"""
    ad_advertiser: np.ndarray
    """int32 [A]"""
    ad_quality: np.ndarray
    """float32 [A], logit"""
    ad_bid_micros: np.ndarray
    """int64 [A]"""
    ad_weight: np.ndarray
    """float64 [A]: how often the ad is a candidate, relative."""
    ad_first: np.ndarray
    """int32 [A + 1]: creatives of ad a are rows ad_first[a] .. ad_first[a + 1]."""
    creative_style: np.ndarray
    """float32 [K, D], about unit variance"""
    creative_look: np.ndarray
    """int8 [K, attributes]: what the picture shows; no columns without pictures."""
    creative_appeal: np.ndarray
    """float32 [K], logit, linear in style"""
    creative_residual: np.ndarray
    """float32 [K], logit, told by nothing but clicks"""
    live_from_us: np.ndarray
    """int64 [K], `ALWAYS_US` = null"""
    live_until_us: np.ndarray
    """int64 [K], `NEVER_US` = null"""
    requests: pa.Table = dataclasses.field(
        default_factory=lambda: REQUESTS.empty_table()
    )
    """Requests of the day after the log, one row per candidate ad."""

    @cached_property
    def user_ids(self) -> pa.Array:
        """String [U]; row 0 is null."""
        return pa.concat_arrays(
            [pa.nulls(1, pa.string()), numbered("u", len(self.user_taste) - 1, 7)]
        )

    @cached_property
    def ad_ids(self) -> pa.Array:
        """String [A]."""
        return numbered("a", len(self.ad_category), 6)

    @cached_property
    def creative_ids(self) -> pa.Array:
        """String [K]."""
        return numbered("c", len(self.creative_ad), 7)

    @cached_property
    def creative_ad(self) -> np.ndarray:
        """int32 [K]: the ad of each creative."""
        ads = np.arange(len(self.ad_category), dtype=np.int32)
        return np.repeat(ads, np.diff(self.ad_first))

    def ad_logits(self, user: np.ndarray, ad: np.ndarray) -> np.ndarray:
        """Return the part of the logit that no choice of creative changes.

        Args:
            user: user rows, any shape.
            ad: ad rows of a shape that broadcasts with `user`.
        """
        liked = self.user_topics[user] == self.ad_category[ad][..., None]
        affinity = liked @ np.array(TOPIC_WEIGHTS, np.float32)
        affinity = affinity * self.recipe.effects.topic
        return self.user_bias[user] + self.ad_quality[ad] + affinity

    def creative_logits(self, user: np.ndarray, creative: np.ndarray) -> np.ndarray:
        """Return personal taste + appeal + residual, float32 [N]."""
        fit = np.einsum(
            "nd,nd->n", self.user_taste[user], self.creative_style[creative]
        )
        scale = self.recipe.effects.personal / np.sqrt(self.user_taste.shape[1])
        common = self.creative_appeal + self.creative_residual
        return fit * np.float32(scale) + common[creative]

    def probability(
        self,
        user: np.ndarray,
        creative: np.ndarray,
        slot: np.ndarray,
        device: np.ndarray,
    ) -> np.ndarray:
        """Return the true CTR, float64 [N], of rows.

        Args:
            user: user rows.
            creative: creative rows; the ad is theirs.
            slot: places, 0 is the best.
            device: 0 = unknown, else 1 + index into `DEVICES`.
        """
        effects = self.recipe.effects
        logit = (
            self.base_logit
            + self.ad_logits(user, self.creative_ad[creative]).astype(np.float64)
            + self.creative_logits(user, creative)
            - effects.slot * np.log2(1.0 + slot)
            + effects.device * np.array([0.0, 1.0, -1.0, 0.0])[device]
        )
        return 1.0 / (1.0 + np.exp(-logit))

    def click_probability(
        self,
        user_ids: Ids,
        ad_ids: Ids,
        creative_ids: Ids,
        slots: np.ndarray | Sequence[int],
        devices: Ids | None = None,
    ) -> np.ndarray:
        """Return the true CTR of creatives shown to users in slots.

        Args:
            user_ids: N ids; null or unknown means the visitor nobody knows.
            ad_ids: N ids.
            creative_ids: N ids, of these ads.
            slots: N places, 0 is the best.
            devices: N names; null, unknown or not given changes nothing.

        Returns:
            float64 [N] in (0, 1); empty for nothing.

        Raises:
            InputError: an unknown ad or creative, a creative of another ad, or a
                negative slot.
        """
        creative = self.creative_rows(creative_ids)
        foreign = self.creative_ad[creative] != self.ad_rows(ad_ids)
        if foreign.any():
            raise InputError(
                f"{int(foreign.sum())} creatives are of another ad",
                field=Column.CREATIVE_ID,
                rule="creative_of_other_ad",
            )
        slot = np.asarray(slots, dtype=np.int64)
        if (slot < 0).any():
            raise InputError("slots start at 0", field=Column.SLOT, rule="bad_slot")
        names = pa.nulls(len(slot), pa.string()) if devices is None else devices
        device = 1 + _positions(pa.array(DEVICES), names)
        return self.probability(self.user_rows(user_ids), creative, slot, device)

    def user_rows(self, ids: Ids) -> np.ndarray:
        """Return user rows, int64 [N]; 0 where null or unknown."""
        return np.maximum(_positions(self.user_ids, ids), 0)

    def ad_rows(self, ids: Ids) -> np.ndarray:
        """Return ad rows, int64 [N]; `InputError` when one is unknown."""
        return _known(_positions(self.ad_ids, ids), "ad")

    def creative_rows(self, ids: Ids) -> np.ndarray:
        """Return creative rows, int64 [N]; `InputError` when one is unknown."""
        return _known(_positions(self.creative_ids, ids), "creative")

    def live_lists(self, ad: np.ndarray, ts_us: np.ndarray) -> np.ndarray:
        """Return the creatives of each ad that live then, left-aligned.

        Args:
            ad: ad rows, [N].
            ts_us: moments in UTC microseconds, [N].

        Returns:
            int32 [N, C] creative rows in rising order, -1 = padding.
        """
        width = int(np.diff(self.ad_first).max())
        rows = self.ad_first[ad][:, None] + np.arange(width, dtype=np.int32)
        inside = rows < self.ad_first[ad + 1][:, None]
        rows = np.where(inside, rows, 0)
        moment = ts_us[:, None]
        born = self.live_from_us[rows] <= moment
        live = inside & born & (moment < self.live_until_us[rows])
        left_first = np.argsort(~live, axis=1, kind="stable")
        lists = np.where(live, rows, -1).astype(np.int32)
        return np.take_along_axis(lists, left_first, axis=1)

    def save(self, directory: Path) -> None:
        """Write `market.safetensors`, `market.json` and `requests.parquet`."""
        arrays, scalars = {}, {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                arrays[field.name] = np.ascontiguousarray(value)
            elif not isinstance(value, pa.Table):
                scalars[field.name] = value
        scalars["recipe"] = self.recipe.model_dump()
        write_bytes(directory / "market.safetensors", save(arrays))
        write_json(directory / "market.json", scalars)
        pq.write_table(self.requests, directory / "requests.parquet")

    @classmethod
    def load(cls, directory: str | Path) -> "Market":
        """Open the `truth` directory of a dataset.

        Raises:
            InputError: a file is missing or unreadable.
        """
        directory = Path(directory)
        parameters: dict[str, Any] = read_json(directory / "market.json")
        parameters["recipe"] = MarketRecipe.model_validate(parameters["recipe"])
        parameters["category_names"] = tuple(parameters["category_names"])
        try:
            parameters |= load_file(directory / "market.safetensors")
            requests = pq.read_table(directory / "requests.parquet")
        except (OSError, SafetensorError, pa.ArrowInvalid) as error:
            raise InputError(
                f"cannot be read: {error}", source=str(directory), rule="readable"
            ) from error
        return cls(**parameters, requests=requests)


def numbered(prefix: str, count: int, digits: int) -> pa.Array:
    """Return ids prefix + 0 .. count - 1 with leading zeros, string [count]."""
    numbers = pa.array(np.arange(count)).cast(pa.string())
    return pc.binary_join_element_wise(prefix, pc.utf8_lpad(numbers, digits, "0"), "")


def timestamps(us: np.ndarray) -> pa.Array:
    """Return microseconds as UTC timestamps; the two ends of time become null."""
    return pa.array(us, TIMESTAMP, mask=(us == ALWAYS_US) | (us == NEVER_US))


def _positions(known: pa.Array, ids: Ids) -> np.ndarray:
    """Return the index of each id among the known ones, int64 [N], -1 = absent."""
    if not isinstance(ids, pa.Array | pa.ChunkedArray):
        ids = pa.array(ids, pa.string())
    found = pc.index_in(ids.cast(pa.string()), value_set=known)
    return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _known(rows: np.ndarray, what: str) -> np.ndarray:
    if (rows < 0).any():
        raise InputError(
            f"{int((rows < 0).sum())} rows name no {what} of this market",
            field=f"{what}_id",
            rule=f"unknown_{what}",
        )
    return rows
