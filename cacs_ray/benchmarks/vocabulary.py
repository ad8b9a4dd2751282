"""Whether a row costs more when there are more IDs to choose from."""

from collections.abc import Callable
from typing import Final

import numpy as np

from cacs_ray.benchmarks.outcome import (
    Outcome,
    Settings,
    at_most,
    compared,
    interleave,
)
from cacs_ray.features.batch import EncodedLog
from cacs_ray.features.spec import FeatureSpec, FieldSpec, VocabularySpec
from cacs_ray.models.ranker import Ranker
from cacs_ray.models.selector import Selector
from cacs_ray.recipes.config import run_config
from cacs_ray.schema import Column, Side
from cacs_ray.training.loop import fit
from cacs_ray.training.reporter import PlainReporter
from cacs_ray.training.rows import Rows
from cacs_ray.training.steps import RankerStep, StudentStep

SIZES: Final = (1_000, 100_000, 1_000_000, 10_000_000)
_NUM_STEPS: Final = 100
_BATCH_SIZE: Final = 4096
_PER_AD: Final = 4
_SKEW: Final = 3.0
"""IDs are drawn as V u^3 with u uniform: one in ten rows has the first V / 1000."""


def vocabulary(settings: Settings) -> list[Outcome]:
    """Compare the cost of a row at every size with that at the smallest."""
    return [
        outcome
        for role in ("teacher", "student")
        for outcome in _of_role(role, settings.repeats)
    ]


def _of_role(role: str, repeats: int) -> list[Outcome]:
    table = []
    for size in SIZES[1:]:
        # The largest tables take gigabytes: they are gone before the next size.
        dear, cheap = interleave([_cost(role, size), _cost(role, SIZES[0])], repeats)
        what = f"{role}, cost of a row with {size:,} / {SIZES[0]:,} users and creatives"
        table.append(compared(what, dear, cheap, "us/row", at_most(1.5)))
    return table


def _cost(role: str, size: int) -> Callable[[], float]:
    """Return what measures the microseconds of one row in a few steps."""
    spec, log, counts = drawn_log(size, _NUM_STEPS * _BATCH_SIZE)
    config = run_config("small")
    changes = {"num_epochs": 1, "min_steps_per_epoch": 1, "batch_size": _BATCH_SIZE}
    loop = config.teacher.loop.override(changes)
    step: RankerStep | StudentStep
    if role == "teacher":
        step = RankerStep(Ranker(spec, config.teacher.model, counts))
    else:
        step = StudentStep(
            Selector(spec, config.student.model, counts),
            "none",
            distillation_weight=0.0,
            click_weight=1.0,
            listwise_click_weight=0.0,
            temperature=1.0,
        )
    rows = Rows(log, "shown")

    def cost() -> float:
        return 1e6 / fit(step, rows, None, loop, PlainReporter()).rows_per_second

    return cost


def drawn_log(
    size: int, num_rows: int, seed: int = 0
) -> tuple[FeatureSpec, EncodedLog, dict[str, np.ndarray]]:
    """Draw a log with so many users and creatives; its shape does not depend on it.

    Args:
        size: users, and creatives, a multiple of 4; four creatives an ad.
        num_rows: impressions.
        seed: of the draw.

    Returns:
        Spec, log, and impressions by vocabulary name.
    """
    rng = np.random.default_rng(seed)
    num_ads = size // _PER_AD
    ids = {Column.USER_ID: size, Column.AD_ID: num_ads, Column.CREATIVE_ID: size}
    sides: tuple[Side, ...] = ("user", "ad", "creative")
    spec = FeatureSpec(
        fields=tuple(
            FieldSpec(name=name, of=side, kind="id", column=name, vocabulary=name)
            for side, name in zip(sides, ids, strict=True)
        ),
        vocabularies=tuple(
            VocabularySpec(name=name, num_values=count) for name, count in ids.items()
        ),
    )
    lists = 1 + np.arange(size, dtype=np.int32).reshape(num_ads, _PER_AD)
    ad = (num_ads * rng.random(num_rows) ** _SKEW).astype(np.int32)
    user = (size * rng.random(num_rows) ** _SKEW).astype(np.int32)
    shown = rng.integers(0, _PER_AD, num_rows).astype(np.int32)
    zeros = np.zeros(num_rows, np.int32)
    known = np.arange(size + 1, dtype=np.int32)
    log = EncodedLog(
        users={f"user.{Column.USER_ID}": known},
        ads={f"ad.{Column.AD_ID}": known[: num_ads + 1]},
        creatives={f"creative.{Column.CREATIVE_ID}": known},
        creative_ad_row=np.append(0, np.repeat(1 + np.arange(num_ads), _PER_AD)),
        requests={},
        lists=lists,
        user_row=1 + user,
        ad_row=1 + ad,
        list_row=ad,
        shown_index=shown,
        slot=zeros,
        label=(rng.random(num_rows) < 0.05).astype(np.float32),
        weight=np.ones(num_rows, np.float32),
        propensity=np.full(num_rows, 1 / _PER_AD, np.float32),
        request_ts=np.arange(num_rows, dtype=np.int64),
        bid_micros=np.zeros(num_rows, np.int64),
        request_row=np.arange(num_rows, dtype=np.int32),
    )
    seen = {
        Column.USER_ID: log.user_row,
        Column.AD_ID: log.ad_row,
        Column.CREATIVE_ID: lists[ad, shown],
    }
    counts = {n: np.bincount(v, minlength=1 + ids[n]) for n, v in seen.items()}
    return spec, log, counts
