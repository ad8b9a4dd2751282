"""How a synthetic market looks: sizes, strengths of its effects, its log.

Strengths are standard deviations on the logit scale. They were set so that, on
`small`, normalised gains fall where a study of this problem found them: smoothed
CTR about .49, a full model about .78, the best choice that ignores the user .58.
"""

from typing import Final, Literal

from pydantic import Field

from cacs_ray.config import Config
from cacs_ray.errors import InputError


class EffectsRecipe(Config):
    """What moves a click, as standard deviations of the logit."""

    target_ctr: float = Field(default=0.055, gt=0, lt=1)
    """Average CTR of logged impressions; sets the constant of the logit."""
    topic: float = Field(default=0.6, ge=0)
    """Logit gained by an ad of the user's first topic; less for the others."""
    ad: float = Field(default=0.4, ge=0)
    """Ad quality: category, advertiser and a rest."""
    user: float = Field(default=0.3, ge=0)
    """How readily a user clicks anything."""
    personal: float = Field(default=0.95, ge=0)
    """User taste times creative style."""
    appeal: float = Field(default=0.5, ge=0)
    """What everybody likes: a linear function of style."""
    residual: float = Field(default=0.35, ge=0)
    """What no content tells and only memory of the creative can learn."""
    slot: float = Field(default=0.35, ge=0)
    """Logit lost from slot 0 to slot 1; slot s loses slot * log2(1 + s)."""
    device: float = Field(default=0.12, ge=0)
    """Logit by which mobile gains and desktop loses."""


class PopulationRecipe(Config):
    """Who and what there is."""

    num_users: int = Field(ge=1)
    num_ads: int = Field(ge=2)
    num_categories: int = Field(default=20, ge=1, le=40)
    max_creatives: int = Field(default=12, ge=1, le=12)
    """Creatives per ad are uniform in 1 .. max_creatives."""
    style_size: int = Field(default=6, ge=1)
    embedding_size: int = Field(default=32, ge=1)
    """Numbers in `image_embedding`: rotated style, noise and nuisance."""
    embedding_noise: float = Field(default=0.25, ge=0)
    """Noise on the style inside the embedding; style itself has deviation 1."""
    born_share: float = Field(default=0.3, ge=0, le=1)
    """Share of creatives (the first of an ad apart) born during log and later days."""
    born_ad_share: float = Field(default=0.05, ge=0, le=1)
    """Share of ads born on the same days, with all their creatives."""
    ended_share: float = Field(default=0.1, ge=0, le=1)
    """Share of creatives (the first of an ad apart) that stop living."""
    missing_share: float = Field(default=0.01, ge=0, le=1)
    """Share of null cells in content, prices and user attributes."""
    new_user_share: float = Field(default=0.02, ge=0, le=1)
    """Users, beside `num_users`, who come only after the log."""


class TrafficRecipe(Config):
    """Who asks, what is shown, and what is written down."""

    num_impressions: int = Field(ge=1)
    """Impressions over all days, reached to within one request per part."""
    num_days: int = Field(default=8, ge=1)
    num_slots: int = Field(default=3, ge=1)
    num_candidates: int = Field(default=24, ge=2)
    """Ads drawn per request; one drawn twice is a candidate once."""
    num_next_requests: int = Field(default=3000, ge=1)
    """Requests of the day after the log, kept with the truth; of each later day too."""
    num_later_days: int = Field(default=1, ge=1)
    """Days after the log on which creatives and ads are still born."""
    user_zipf: float = Field(default=0.6, ge=0)
    ad_zipf: float = Field(default=0.7, ge=0)
    topic_share: float = Field(default=0.5, ge=0, le=1)
    """Share of candidate ads drawn from the user's topics."""
    score_noise: float = Field(default=0.6, ge=0)
    """Noise on the log of the ad-level score that fills the slots."""
    unknown_user_share: float = Field(default=0.02, ge=0, le=1)
    """Share of requests without a user."""
    part_impressions: int = Field(default=250_000, ge=1)
    """Largest number of impressions drawn at once, one file each."""


class LoggingRecipe(Config):
    """How the log's creatives were chosen, given their ad and request."""

    policy: Literal["uniform", "epsilon_greedy"] = "uniform"
    epsilon: float = Field(default=0.2, gt=0, le=1)
    """Share of choices made uniformly; only of epsilon_greedy."""
    prior_impressions: float = Field(default=20.0, gt=0)
    """Impressions at average CTR that a creative starts with."""
    writes_candidates: bool = True
    """Write `candidate_creative_ids`, or null: all creatives live then."""


class MarketRecipe(Config):
    """One named market."""

    name: str
    population: PopulationRecipe
    traffic: TrafficRecipe
    effects: EffectsRecipe = EffectsRecipe()
    logging: LoggingRecipe = LoggingRecipe()
    has_pictures: bool = False
    """Creatives are composited pictures and their look is the hidden style."""
    is_streamed: bool = False
    """Written by Ray tasks, one part each, instead of in this process."""


RECIPES: Final[dict[str, MarketRecipe]] = {
    recipe.name: recipe
    for recipe in (
        MarketRecipe(
            name="smoke",
            population=PopulationRecipe(
                num_users=400, num_ads=240, num_categories=8, max_creatives=8
            ),
            traffic=TrafficRecipe(num_impressions=20_000, num_next_requests=400),
        ),
        MarketRecipe(
            name="live",
            population=PopulationRecipe(
                num_users=600,
                num_ads=60,
                num_categories=8,
                max_creatives=8,
                born_share=0.6,
                born_ad_share=0.1,
            ),
            traffic=TrafficRecipe(
                num_impressions=18_000,
                num_days=3,
                num_candidates=12,
                num_next_requests=2_500,
            ),
            effects=EffectsRecipe(target_ctr=0.08),
        ),
        MarketRecipe(
            name="small",
            population=PopulationRecipe(num_users=5_000, num_ads=4_000),
            traffic=TrafficRecipe(num_impressions=500_000),
            logging=LoggingRecipe(writes_candidates=False),
        ),
        MarketRecipe(
            name="large",
            population=PopulationRecipe(
                num_users=500_000, num_ads=100_000, num_categories=40
            ),
            traffic=TrafficRecipe(num_impressions=50_000_000, num_next_requests=5000),
            logging=LoggingRecipe(writes_candidates=False),
            is_streamed=True,
        ),
        MarketRecipe(
            name="pictures",
            population=PopulationRecipe(
                num_users=1_500, num_ads=60, num_categories=8, max_creatives=10
            ),
            traffic=TrafficRecipe(
                num_impressions=80_000, num_candidates=20, num_next_requests=1000
            ),
            has_pictures=True,
        ),
    )
}
"""Smoke takes seconds, live is played on day by day after a short log, small is half
a million rows, large is fifty million."""


def market_recipe(name: str) -> MarketRecipe:
    """Return a recipe by name; `InputError` lists the names when there is none."""
    if name not in RECIPES:
        raise InputError(
            f"no recipe {name!r}; there are {sorted(RECIPES)}",
            source="--recipe",
            rule="known_recipe",
        )
    return RECIPES[name]
