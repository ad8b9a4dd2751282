"""What a study compares: sources, seeds, and one variant a row of its table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.errors import InputError

FULL: Final = "full"
"""The method as its recipe has it; every other variant is paired with it."""

SourceName = Literal["uniform", "epsilon_greedy", "logs"]
"""Markets by how their log was made; `logs` is a dataset of one's own."""
SOURCES: Final = get_args(SourceName)

_NO_GATE: Final = {"model.gate.kind": "none", "model.gate.cold_share": 0.0}


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to train the selector, as what it changes of the recipe."""

    changes: Mapping[str, Any]
    """Dotted field of `StudentConfig` -> value."""
    says: str
    """What it is, for people."""
    without: tuple[str, ...] = ()
    """Kinds of features that its selector does not see."""

    @property
    def made_from(self) -> dict[str, Any]:
        """What tells it from others, as JSON values."""
        return {"changes": dict(self.changes), "without": list(self.without)}


CONTENT_KINDS: Final = ("text", "image", "vector")
IDENTITY_KINDS: Final = ("id",)

VARIANTS: Final[Mapping[str, Variant]] = {
    FULL: Variant({}, "the method as the recipe has it"),
    "no_distillation": Variant({"distillation": "none"}, "clicks alone"),
    "no_dropout": Variant(_NO_GATE, "identities always kept, none made cold"),
    "neither": Variant(
        {"distillation": "none", **_NO_GATE}, "clicks alone, identities always kept"
    ),
    "no_clicks": Variant({"click_weight": 0.0}, "soft labels alone"),
    "pointwise": Variant({"distillation": "pointwise"}, "soft labels one by one"),
    "rank_labels": Variant({"distillation": "rank_labels"}, "the teacher's order"),
    "clid": Variant({"distillation": "clid"}, "shares of click probability"),
    "tau_0.5": Variant({"temperature": 0.5}, "sharper soft labels"),
    "tau_2": Variant({"temperature": 2.0}, "flatter soft labels"),
    "lambda_0.3": Variant({"distillation_weight": 0.3}, "less distillation"),
    "lambda_3": Variant({"distillation_weight": 3.0}, "more distillation"),
    "gate_fixed": Variant({"model.gate.kind": "fixed"}, "dropped at rate 0.3"),
    "gate_frequency": Variant({"model.gate.kind": "frequency"}, "k / (k + n)"),
    "gate_none_cold": Variant(
        {"model.gate.kind": "none"}, "no gate; the measured share made cold"
    ),
    "gate_learnt": Variant(
        {"model.gate.kind": "learnt"}, "learnt, paying for leaving k / (k + n)"
    ),
    "gate_learnt_free": Variant(
        {"model.gate.kind": "learnt", "model.gate.kl_weight": 0.0},
        "learnt, free to keep everything",
    ),
    "gate_later": Variant(
        {"model.gate.kind": "learnt", "model.gate.signal": "later"},
        "learnt from rows later than training",
    ),
    "no_content": Variant({}, "identities and categories alone", CONTENT_KINDS),
    "no_content_no_dropout": Variant(
        _NO_GATE, "the same, identities always kept", CONTENT_KINDS
    ),
    "content_only": Variant({}, "no identities at all", IDENTITY_KINDS),
}

WEIGHTED: Final[Mapping[str, Variant]] = {
    "ips_5": Variant({"importance_clip": 5.0}, "click loss by clipped 1 / propensity"),
    "ips_20": Variant({"importance_clip": 20.0}, "the same, clipped at 20"),
}
"""Variants that only a log with propensities tells from the full method; on a log of
one's own they are run when asked for by name."""


RANKERS: Final[Mapping[str, Variant]] = {
    "frozen": Variant({"model.sharing": "frozen"}, "reads V(c) as it is"),
    "frozen_cold": Variant(
        {"model.sharing": "frozen", "is_warm_started": False},
        "the same, not started from the teacher",
    ),
    "frozen_own": Variant(
        {"model.sharing": "frozen", "model.keeps_own_fields": True},
        "V(c) beside the creative's own fields",
    ),
    "fine_tuned": Variant(
        {"model.sharing": "fine_tuned"}, "the creative tower, trained on"
    ),
    "joint": Variant(
        {"model.sharing": "joint"}, "V(c), selector and ranker trained on together"
    ),
    "own": Variant(
        {"model.sharing": "own", "model.keeps_own_fields": False},
        "the creative's own fields, no V(c)",
    ),
}
"""Ways to share the selector's vectors with the serving ranker, as changes of
`ServingRankerConfig`."""


class StudyConfig(Config):
    """Which cells there are."""

    recipe: str = "small"
    """Of the cycle and of the market."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """A seed draws a market of its own and every training on it."""
    sources: tuple[SourceName, ...] = ("uniform", "epsilon_greedy")
    variants: tuple[str, ...] = ()
    """Names to run beside `full`; () = all."""
    level: float = Field(default=0.95, gt=0, lt=1)
    """Of the intervals over seeds."""


def variants_of(source: SourceName, wanted: tuple[str, ...]) -> dict[str, Variant]:
    """Return the variants that are run on a source, `full` first.

    Raises:
        InputError: there is no such variant.
    """
    known = {**VARIANTS, **WEIGHTED}
    for name in wanted:
        if name not in known:
            raise InputError(
                f"no variant {name!r}; there are {sorted(known)}",
                source="--variants",
                rule="known_variant",
            )
    if wanted:
        return {n: v for n, v in known.items() if n in (FULL, *wanted)}
    return dict(known if source == "epsilon_greedy" else VARIANTS)
