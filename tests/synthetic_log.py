"""A small encoded log whose truth is known: user taste meets creative style.

Every user likes one of S styles, every creative has one; a click is likely where
they agree. The style is seen in the creative's content vector, the taste in the
user's list and group.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from cacs_ray.features.batch import Batch, EncodedLog
from cacs_ray.features.spec import FeatureSpec, FieldSpec, VocabularySpec
from cacs_ray.models.adaptive_dropout import GateConfig
from cacs_ray.models.ranker import RankerConfig
from cacs_ray.models.selector import SelectorConfig
from cacs_ray.training.optimizer import LoopConfig
from cacs_ray.training.student import StudentConfig

NUM_STYLES = 4
NUM_USERS, NUM_ADS, PER_AD = 60, 12, 4
NUM_CREATIVES = NUM_ADS * PER_AD
CONTENT = 6

FIELDS = (
    FieldSpec(
        name="user_id", of="user", kind="id", column="user_id", vocabulary="user_id"
    ),
    FieldSpec(name="taste", of="user", kind="category", column="t", vocabulary="style"),
    FieldSpec(
        name="recent",
        of="user",
        kind="category_list",
        column="r",
        vocabulary="topic",
        size=3,
    ),
    FieldSpec(name="hour", of="request", kind="number", column="h"),
    FieldSpec(name="topic", of="ad", kind="category", column="t", vocabulary="topic"),
    FieldSpec(name="ad_id", of="ad", kind="id", column="ad_id", vocabulary="ad_id"),
    FieldSpec(
        name="creative_id",
        of="creative",
        kind="id",
        column="creative_id",
        vocabulary="creative_id",
    ),
    FieldSpec(name="picture", of="creative", kind="vector", column="p", size=CONTENT),
)
VOCABULARIES = (
    VocabularySpec(name="user_id", num_values=NUM_USERS),
    VocabularySpec(name="style", num_values=NUM_STYLES),
    VocabularySpec(name="topic", num_values=5),
    VocabularySpec(name="ad_id", num_values=NUM_ADS),
    VocabularySpec(name="creative_id", num_values=NUM_CREATIVES),
)
SPEC = FeatureSpec(fields=FIELDS, vocabularies=VOCABULARIES)


def spec_of(*keys: str) -> FeatureSpec:
    """Keep only some fields."""
    chosen = tuple(field for field in FIELDS if field.key in keys)
    return FeatureSpec(fields=chosen, vocabularies=VOCABULARIES)


def make_log(num_rows: int = 2000, seed: int = 0) -> EncodedLog:
    """Draw impressions under uniform choice; users, ads and creatives stay alike."""
    fixed = np.random.default_rng(7)
    taste = fixed.integers(1, NUM_STYLES + 1, NUM_USERS)
    topic = fixed.integers(1, 6, NUM_ADS)
    style = np.concatenate([fixed.permutation(NUM_STYLES) + 1 for _ in range(NUM_ADS)])
    recent = fixed.integers(0, 6, (NUM_USERS, 3))
    picture = np.eye(CONTENT)[style] + fixed.normal(0, 0.1, (NUM_CREATIVES, CONTENT))
    rng = np.random.default_rng(seed)
    user = rng.integers(0, NUM_USERS, num_rows)
    ad = rng.integers(0, NUM_ADS, num_rows)
    shown = rng.integers(0, PER_AD, num_rows)
    slot = rng.integers(0, 3, num_rows)
    agrees = taste[user] == style[ad * PER_AD + shown]
    logit = -1.5 + 2.5 * agrees - 0.4 * slot
    lists = 1 + np.arange(NUM_CREATIVES).reshape(NUM_ADS, PER_AD)
    return EncodedLog(
        users={
            "user.user_id": _blank_first(1 + np.arange(NUM_USERS)),
            "user.taste": _blank_first(taste),
            "user.recent": _blank_first(recent),
        },
        ads={
            "ad.topic": _blank_first(topic),
            "ad.ad_id": _blank_first(1 + np.arange(NUM_ADS)),
        },
        creatives={
            "creative.creative_id": _blank_first(1 + np.arange(NUM_CREATIVES)),
            "creative.picture": _blank_first(
                np.column_stack([picture, np.ones(NUM_CREATIVES)]).astype(np.float32)
            ),
        },
        creative_ad_row=_blank_first(1 + np.repeat(np.arange(NUM_ADS), PER_AD)),
        requests={
            "request.hour": np.column_stack(
                [rng.normal(size=num_rows), np.zeros(num_rows)]
            ).astype(np.float32)
        },
        # Padded by one column: no list fills it.
        lists=np.pad(lists, ((0, 0), (0, 1))).astype(np.int32),
        user_row=(1 + user).astype(np.int32),
        ad_row=(1 + ad).astype(np.int32),
        list_row=ad.astype(np.int32),
        shown_index=shown.astype(np.int32),
        slot=slot.astype(np.int32),
        label=(rng.random(num_rows) < 1 / (1 + np.exp(-logit))).astype(np.float32),
        weight=np.ones(num_rows, np.float32),
        propensity=np.full(num_rows, 1 / PER_AD, np.float32),
        request_ts=np.arange(num_rows, dtype=np.int64),
        bid_micros=np.zeros(num_rows, np.int64),
        request_row=np.arange(num_rows, dtype=np.int32),
    )


def open_synthetic(directory: str, window: str) -> EncodedLog:
    """Stand in for an encoded log on disk; `directory` only has to be a path."""
    assert directory
    return make_log(2000, 0) if window == "train" else make_log(600, 1)


def true_best(log: EncodedLog) -> np.ndarray:
    """Column of the creative that agrees with the user of each row."""
    taste = log.users["user.taste"][log.user_row]
    style = log.creatives["creative.picture"][log.lists[log.list_row]][
        ..., 1 : NUM_STYLES + 1
    ].argmax(-1)
    best: np.ndarray = (style + 1 == taste[:, None]).argmax(1)
    return best


def counts(log: EncodedLog | None = None) -> dict[str, np.ndarray]:
    """Impressions of every vocabulary's indices; 100 each without a log."""
    if log is None:
        made = {v.name: np.full(v.size, 100.0) for v in VOCABULARIES}
        return {name: np.concatenate([[0.0], c[1:]]) for name, c in made.items()}
    shown = log.lists[log.list_row, log.shown_index]
    return {
        "user_id": np.bincount(log.user_row, minlength=1 + NUM_USERS),
        "ad_id": np.bincount(log.ad_row, minlength=1 + NUM_ADS),
        "creative_id": np.bincount(shown, minlength=1 + NUM_CREATIVES),
    }


def gate(kind: str = "none", cold_share: float | None = None) -> GateConfig:
    return GateConfig(
        kind=kind,
        rate=0.3,
        half_impressions=30.0,
        relaxation=0.5,
        kl_weight=0.1,
        cold_share=cold_share,
    )


def selector_config(kind: str = "none") -> SelectorConfig:
    return SelectorConfig(
        dim=8, content_dim=8, hidden=16, vector_size=9, num_slots=4, gate=gate(kind)
    )


def ranker_config(kind: str = "none", **changes: object) -> RankerConfig:
    given = {
        "dim": 8,
        "content_dim": 8,
        "hidden": 16,
        "interaction_dim": 8,
        "num_cross_layers": 2,
        "cross_rank": 8,
        "num_slots": 4,
        "blank_share": 0.0,
        "sharing": "own",
        "keeps_own_fields": True,
        "gate": gate(kind),
    }
    return RankerConfig.model_validate(given | changes)


def loop_config(**changes: object) -> LoopConfig:
    given = {
        "num_epochs": 2,
        "batch_size": 256,
        "min_steps_per_epoch": 1,
        "learning_rate": 0.01,
        "embedding_learning_rate": 0.3,
        "precision": 0.0,
        "embedding_doubt": 1.0,
        "embedding_forgetting": 0.0,
        "schedule": "constant",
        "num_warmup_steps": 0,
        "patience": 0,
        "seed": 0,
        "num_threads": 1,
        "report_every_steps": 4,
        "checkpoint_every_steps": 0,
    }
    return LoopConfig.model_validate(given | changes)


def clicks_student(**loop: object) -> StudentConfig:
    """Return a student without a gate that learns from clicks alone."""
    return StudentConfig(
        model=selector_config("none"),
        loop=loop_config(**loop),
        distillation="none",
        distillation_weight=1.0,
        click_weight=1.0,
        listwise_click_weight=0.0,
        temperature=1.0,
    )


def _blank_first(rows: np.ndarray) -> np.ndarray:
    blank = np.zeros((1, *rows.shape[1:]), rows.dtype)
    joined = np.concatenate([blank, rows])
    is_number = np.issubdtype(joined.dtype, np.floating)
    return joined if is_number else joined.astype(np.int32)


@dataclass(frozen=True)
class DeadlyLog(EncodedLog):
    """Kills its process at the n-th batch, once: then `marker` is there."""

    marker: Path = Path()
    batches_left: Iterator[int] = field(default_factory=lambda: iter(range(6)))

    def batch(self, *args: Any, **kwargs: Any) -> Batch:
        if not self.marker.exists() and next(self.batches_left, None) is None:
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return EncodedLog.batch(self, *args, **kwargs)


def open_deadly(directory: str, window: str) -> EncodedLog:
    """Open a training window that kills its reader once, a harmless validation."""
    log = open_synthetic(directory, window)
    if window != "train":
        return log
    columns = {item.name: getattr(log, item.name) for item in fields(log)}
    return DeadlyLog(**columns, marker=Path(directory) / "died")
