"""What is compared: arms, each an order of decision with its way to explore."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.errors import InputError

GREEDY: Final = "greedy"
"""The arm that learns from its own choices alone; every other is paired with it."""
ORACLE: Final = "oracle"
"""The reference that knows every click probability and learns nothing."""
NUM_SLOTS: Final = 3


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to decide, as what it changes of `DecisionSettings`."""

    changes: Mapping[str, Any]
    says: str
    """What it is, for people."""

    @property
    def settings(self) -> DecisionSettings:
        """The whole settings of its decisions."""
        return DecisionSettings.model_validate({"num_slots": NUM_SLOTS, **self.changes})


ARMS: Final[Mapping[str, Arm]] = {
    GREEDY: Arm({"policy": "cacs"}, "the selector's best, never another"),
    "epsilon_0.05": Arm(
        {"policy": "cacs", "epsilon": 0.05}, "one choice in twenty at random"
    ),
    "epsilon": Arm({"policy": "cacs", "epsilon": 0.1}, "one choice in ten at random"),
    "thompson": Arm(
        {"policy": "thompson"}, "Thompson over counts, the same prior for all"
    ),
    "thompson_content": Arm(
        {"policy": "thompson", "thompson_prior": "content"},
        "Thompson over counts, the selector's score as prior",
    ),
    "post_rank": Arm({"policy": "post_rank"}, "ranked first, the creative unknown"),
    "post_rank_epsilon": Arm(
        {"policy": "post_rank", "epsilon": 0.1}, "the same, one choice in ten at random"
    ),
    "parallel": Arm({"policy": "parallel"}, "ranked and selected side by side"),
    "popular": Arm({"policy": "popular"}, "the best smoothed CTR, the user unknown"),
    "rank_only": Arm({"policy": "rank_only"}, "the first creative of each ad"),
    "random": Arm({"policy": "random"}, "every creative alike"),
}

DEFAULT_ARMS: Final = (GREEDY, "epsilon", "thompson", "thompson_content")


class LiveConfig(Config):
    """Which loops there are."""

    recipe: str = "live"
    """Of the market and of the cycle."""
    days: int = Field(default=7, ge=1)
    """Days that are played after the log."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A seed draws a market of its own and every training on it."""
    arms: tuple[str, ...] = DEFAULT_ARMS
    level: float = Field(default=0.95, gt=0, lt=1)
    """Of the intervals over seeds."""


def arms_of(wanted: tuple[str, ...]) -> dict[str, Arm]:
    """Return arms by name, in the order asked for.

    Raises:
        InputError: there is no such arm.
    """
    for name in wanted:
        if name not in ARMS:
            raise InputError(
                f"no arm {name!r}; there are {sorted(ARMS)}",
                source="--arms",
                rule="known_arm",
            )
    return {name: ARMS[name] for name in wanted}
