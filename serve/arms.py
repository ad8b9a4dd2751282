"""Who is answered by what: the arms of a running comparison, and the live release.

A user stays in one arm: the arm is a hash of the experiment's name and the user id,
so no state is kept and every replica agrees. Visitors without an id are told apart
by their request.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

from pydantic import Field, model_validator

from cacs_ray.config import Config
from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.errors import InputError
from cacs_ray.schema import PolicyName

LIVE = "live"
"""Name of the arm that gets what is left: the live release as configured."""


class ArmArgs(Config):
    """One arm beside the live release."""

    name: str = Field(pattern=r"^[\w.-]{1,40}$")
    share: float = Field(gt=0, lt=1)
    """Of the users."""
    bundle: str | None = None
    """Directory of its bundle; null = the live release."""
    policy: PolicyName | None = None
    """null = as configured for all."""
    epsilon: float | None = Field(default=None, ge=0, le=1)


class ExperimentArgs(Config):
    """A comparison on live traffic."""

    name: str = "arms"
    """Another name deals the users anew."""
    arms: tuple[ArmArgs, ...] = ()
    """What is left of the users is the arm `live`."""
    shadow: str | None = None
    """Directory of a bundle that decides too, answers nobody and is logged apart."""

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len({*names, LIVE}) <= len(names):
            raise ValueError(f"arms need names of their own, and not {LIVE!r}")
        if sum(arm.share for arm in self.arms) > 1:
            raise ValueError("the shares of the arms exceed 1")
        told_apart = {(arm.bundle, arm.policy) for arm in self.arms} | {(None, None)}
        if len(told_apart) <= len(self.arms):
            raise ValueError(
                "two arms have the same bundle and policy: the decision log could"
                " not tell them apart"
            )
        return self


@dataclass(frozen=True, slots=True)
class Arm:
    """What answers a user."""

    name: str
    release: str | None
    """Bundle id; None = whichever is live."""
    settings: DecisionSettings


class Arms:
    """Deals users to arms.

    Args:
        experiment: name of the comparison.
        arms: (share, arm) of each beside the live one; the shares sum to at most 1.
        live: for all other users.
    """

    def __init__(
        self, experiment: str, arms: Sequence[tuple[float, Arm]], live: Arm
    ) -> None:
        self._key = experiment.encode()[:64]
        self._arms = tuple(arm for _, arm in arms)
        self._heights = tuple(accumulate(share for share, _ in arms))
        self.live = live

    def of(self, user_id: str | None, request_id: str) -> Arm:
        """Return the arm of a user, or of a visitor's request."""
        if not self._arms:
            return self.live
        place = self._place(user_id if user_id is not None else f"\0{request_id}")
        for arm, height in zip(self._arms, self._heights, strict=True):
            if place < height:
                return arm
        return self.live

    def _place(self, who: str) -> float:
        """A number in [0, 1) for each who."""
        text = who.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(text, digest_size=8, key=self._key).digest()
        return int.from_bytes(digest) / 2**64


def make_arms(
    experiment: ExperimentArgs,
    settings: DecisionSettings,
    bundle_ids: dict[str, str],
) -> Arms:
    """Return the arms that a configuration names.

    Args:
        experiment: the configuration.
        settings: of the live arm.
        bundle_ids: bundle directory -> bundle id.

    Raises:
        InputError: two arms come out the same.
    """
    arms = []
    for asked in experiment.arms:
        changes = {
            name: value
            for name, value in (("policy", asked.policy), ("epsilon", asked.epsilon))
            if value is not None
        }
        release = None if asked.bundle is None else bundle_ids[asked.bundle]
        arm = Arm(asked.name, release, settings.model_copy(update=changes))
        arms.append((asked.share, arm))
    told = Counter([(a.release, a.settings.policy) for _, a in arms])
    told[None, settings.policy] += 1
    if max(told.values()) > 1:
        raise InputError(
            "two arms answer with the same release and policy: the decision log could"
            " not tell them apart",
            field="experiment.arms",
            rule="arms_told_apart",
        )
    return Arms(experiment.name, arms, Arm(LIVE, None, settings))
