"""Request and answer on the wire: strict, bounded, JSON.

What is not declared here is refused: unknown keys, numbers as text, NaN, control
characters in ids, ads that occur twice. Nothing a client sends is ever fetched.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_BODY_BYTES: Final = 1 << 20
MAX_CANDIDATES: Final = 500
MAX_CREATIVES: Final = 10_000
"""Creatives of all candidate ads of one request."""
MAX_CLICKS: Final = 1_000
MAX_BID_MICROS: Final = 10**12
MAX_FEATURES: Final = 200
MAX_TEXT_LENGTH: Final = 4_096
MAX_LIST_LENGTH: Final = 4_096
MAX_FEATURE_VALUES: Final = 1_000_000
"""Values of the features, see `num_values`, times candidate ads: tables and log hold
the features beside each ad."""
_LETTERS_PER_VALUE: Final = 8

Identity = Annotated[
    str,
    StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$"),
]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_LENGTH)]
FeatureList = Annotated[list[Text | int | float], Field(max_length=MAX_LIST_LENGTH)]
FeatureValue = bool | int | float | Text | FeatureList | None
"""Which of these a feature takes is checked against its declared kind."""


def num_values(features: Iterable[FeatureValue]) -> int:
    """Return how many numbers, flags and texts features hold, lists by their items.

    A text counts one more for every 8 letters: about the bytes of a number.
    """
    num, num_letters = 0, 0
    for value in features:
        items = value if isinstance(value, list) else (value,)
        num += len(items)
        num_letters += sum(len(one) for one in items if isinstance(one, str))
    return num + num_letters // _LETTERS_PER_VALUE


class _Wire(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class AskedCandidate(_Wire):
    """One ad that may be shown."""

    ad_id: Identity
    bid_micros: int = Field(gt=0, le=MAX_BID_MICROS)
    """What a click may cost, in millionths of the currency."""
    creative_ids: list[Identity] | None = Field(
        default=None, min_length=1, max_length=MAX_CREATIVES
    )
    """Only these creatives of the ad may be shown; null = all that are live."""
    pinned_creative_id: Identity | None = None
    """This creative must be shown if the ad is."""

    @model_validator(mode="after")
    def _check_creatives(self) -> Self:
        asked = self.creative_ids
        if asked is None:
            return self
        if len(set(asked)) < len(asked):
            raise PydanticCustomError("duplicate_creative", "a creative occurs twice")
        if self.pinned_creative_id is not None and self.pinned_creative_id not in asked:
            raise PydanticCustomError(
                "pinned_not_allowed", "the pinned creative is not in creative_ids"
            )
        return self


class DecideRequest(_Wire):
    """One page view that asks for ads."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "request_id": "page-view-1",
                    "user_id": "u1",
                    "features": {},
                    "candidates": [{"ad_id": "a1", "bid_micros": 250_000}],
                    "num_slots": 3,
                }
            ]
        }
    )

    request_id: Identity
    request_ts: AwareDatetime | None = Field(
        default=None,
        ge=datetime(1970, 1, 1, tzinfo=UTC),
        lt=datetime(2200, 1, 1, tzinfo=UTC),
    )
    """When the ads were asked for, with its time zone; null = now."""
    user_id: Identity | None = None
    """null = unknown visitor."""
    features: dict[Identity, FeatureValue] = Field(
        default_factory=dict, max_length=MAX_FEATURES
    )
    """The request's declared columns; one that is left out counts as unknown."""
    candidates: list[AskedCandidate] = Field(min_length=1, max_length=MAX_CANDIDATES)
    num_slots: int | None = Field(default=None, ge=1, le=100)
    """Places on the page; null = as configured."""

    @field_validator("candidates")
    @classmethod
    def _check_size(
        cls, candidates: list[AskedCandidate], info: ValidationInfo
    ) -> list[AskedCandidate]:
        # Features that broke their own rules are not there.
        each = num_values(info.data.get("features", {}).values())
        if each * len(candidates) > MAX_FEATURE_VALUES:
            raise PydanticCustomError(
                "too_many_feature_values",
                "{ads} ads x {each} feature values = {all}, more than {limit}",
                {
                    "ads": len(candidates),
                    "each": each,
                    "all": each * len(candidates),
                    "limit": MAX_FEATURE_VALUES,
                },
            )
        return candidates

    @model_validator(mode="after")
    def _check_candidates(self) -> Self:
        if len({asked.ad_id for asked in self.candidates}) < len(self.candidates):
            raise PydanticCustomError("duplicate_ad", "an ad occurs twice")
        if sum(len(c.creative_ids or ()) for c in self.candidates) > MAX_CREATIVES:
            raise PydanticCustomError(
                "too_many_creatives",
                "more than {limit} creatives in one request",
                {"limit": MAX_CREATIVES},
            )
        return self


class Click(_Wire):
    """One click on an ad that was shown."""

    request_id: Identity
    ad_id: Identity
    click_ts: AwareDatetime | None = Field(
        default=None,
        ge=datetime(1970, 1, 1, tzinfo=UTC),
        lt=datetime(2200, 1, 1, tzinfo=UTC),
    )
    """When it happened, with its time zone; null = now."""


class ClicksRequest(_Wire):
    """Clicks to be joined with decisions; one that is sent again counts once."""

    clicks: list[Click] = Field(min_length=1, max_length=MAX_CLICKS)


class ClicksAnswer(_Wire):
    """What became of the clicks of one request."""

    accepted: int
    dropped: int
    """The log had no room: send them again later."""


class Releases(_Wire):
    """What a gateway can answer with."""

    live: str
    held: list[str]
    orders: list[str]


class ReleaseRequest(_Wire):
    """Asks that a bundle become live."""

    bundle: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][\w.-]{0,99}$")]
    """Name of its directory, in the directory that is configured for releases."""


class ReleaseState(_Wire):
    """The release board, for whoever operates the service."""

    status: str
    """`live`, `loading` or `refused`, of the bundle asked for."""
    bundle_id: str
    reason: str | None = None
    live: str
    previous: str | None
    next: str | None
    swaps: int
    replicas: dict[str, list[str]]
    """Replica -> releases that it holds."""


class Placement(_Wire):
    """What is shown in one slot."""

    slot: int
    """0 is the best place."""
    ad_id: str
    creative_id: str
    pctr: float
    """Calibrated click probability in slot 0."""
    ecpm_micros: float
    price_micros: int
    """What a click will cost."""
    propensity: float
    """P(creative | ad, request) of this choice."""
    selector_score: float | None
    """An order inside one ad, not a probability."""


class CandidateDecision(_Wire):
    """What was decided for one candidate ad, shown or not."""

    ad_id: str
    creative_id: str
    candidate_creative_ids: list[str]
    propensity: float
    selector_score: float | None
    pctr: float
    bid_micros: int
    ecpm_micros: float
    slot: int | None
    """null = not shown."""
    price_micros: int | None


class Rejected(_Wire):
    """A candidate ad that took no part."""

    ad_id: str
    rule: str
    """Name of the broken rule, as in the log contract."""


class Rung(_Wire):
    """Which rungs of the ladder answered: the lowest that a candidate ad needed."""

    choice: Literal["fresh_selection", "popular_creative", "default_creative"] = (
        "fresh_selection"
    )
    """As the policy says; by the smoothed CTR of training; by that, and the first live
    creative of an ad whose creatives it does not tell apart."""
    ctr: Literal["ranker", "last_ctr", "training_ctr"] = "ranker"
    """The ranker's; what it lately gave for each creative; that, and the smoothed CTR
    of training for a creative of which it has said nothing yet."""


class DecideAnswer(_Wire):
    """One decision per slot, best first."""

    request_id: str
    release: str
    """The bundle that answered, from end to end."""
    policy: str
    is_fallback: bool
    fallback_reason: str | None
    """Which stage did not answer and why, such as `selector_late`, `ranker_spared`."""
    rung: Rung
    placements: list[Placement]
    rejected: list[Rejected]
    decisions: list[CandidateDecision] | None = None
    """All candidates; only with `?explain=true`."""


class CreativeOption(_Wire):
    """One creative that could have been chosen for an ad."""

    creative_id: str
    selector_score: float | None
    """An order inside one ad, not a probability; null = the order asks for none."""
    probability: float
    """P(this creative | ad, request) under the policy and its exploration."""
    impressions: float
    """In the release's training window."""
    clicks: float


class CandidatePreview(CandidateDecision):
    """One candidate ad with all it could have shown."""

    creatives: list[CreativeOption]


class PreviewAnswer(_Wire):
    """What would be decided, with the reasons; nothing is logged or counted."""

    request_id: str
    release: str
    policy: str
    is_fallback: bool
    fallback_reason: str | None
    rung: Rung
    seconds: dict[str, float]
    """Time in each stage and in `total`."""
    candidates: list[CandidatePreview]
    """In the order they were asked for; those with a slot are shown."""
    rejected: list[Rejected]


class Problem(_Wire):
    """One broken rule of a request."""

    field: str
    message: str
    rule: str


class ProblemReport(_Wire):
    """Body of an answer with status 4xx or 503; never repeats what was sent."""

    error: str
    problems: list[Problem] = Field(default_factory=list)
