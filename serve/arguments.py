"""What may be configured about the service."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from cacs_ray.config import Config
from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.schema import PolicyName
from serve.arms import ExperimentArgs
from serve.board import ReplicaKind
from serve.hosts import LOOPBACK_HOSTS, check_host


def _split(value: object) -> object:
    """`key=value` of a command line has no lists."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return value


class AppArgs(Config):
    """What `serve run serve.app:build_app key=value` may set."""

    bundle: str
    """Directory of the bundle to serve; the same on every node."""
    budget_ms: float = Field(default=50.0, gt=0, le=10_000)
    """Time to answer in, unless a request brings its own."""
    max_in_flight: int = Field(default=6, ge=1, le=1_000)
    """Requests that a gateway holds at the same time when more come than it can
    answer; others get 503 at once."""
    max_in_full: int | None = Field(default=None, ge=1, le=1_000)
    """While it holds more than these, answers do without the ranker
    (`ranker_spared`); null = two thirds of `max_in_flight`; as many as `max_in_flight`:
    never."""
    max_in_burst: int | None = Field(default=None, ge=1, le=1_000)
    """Requests that it holds at first when its queue has been short; null =
    four times `max_in_flight`; no more than that, or fewer than 3 places: none for
    bursts."""
    fused: bool = False
    """All stages in the gateway's process instead of one deployment each."""
    selector_in_gateway: bool = False
    """The selector in the gateway's process and the ranker a deployment: selection
    costs no call of another process. `fused` goes before it."""
    stage_calls: int = Field(default=2, ge=1, le=1_000)
    """Calls of each deployment of stages that a gateway has under way at the same
    time; what is asked meanwhile goes together in the next one."""
    decision_log: str | None = None
    """Directory of the decision log; without it decisions are not kept."""
    click_log: str | None = None
    """Directory of the click log; without it clicks are not taken."""
    shadow_log: str | None = None
    """Directory of the shadow's decisions; without it they are only counted."""
    dataset: str | None = None
    """Directory of a dataset.yaml: titles, pictures and logged requests for the
    pages; without it creatives are drawn and named by their ids."""
    num_slots: int = Field(default=3, ge=1, le=100)
    """Places on a page, unless a request says."""
    epsilon: float = Field(default=0.0, ge=0, le=1)
    """Share of uniform choice, see `DecisionSettings`."""
    policy: PolicyName = "cacs"
    """How creatives are chosen and when."""
    thompson_prior: Literal["log", "content"] = "log"
    """Where the policy `thompson` starts from, see `DecisionSettings`."""
    orders: tuple[PolicyName, ...] = (
        *("cacs", "post_rank", "parallel", "rank_only"),
        *("popular", "random", "thompson"),
    )
    """What `?order=` of a decision may ask for; a preview may ask for any."""
    reserve_micros: int = Field(default=1, ge=1)
    """Least price of a click."""
    controls: str | None = None
    """YAML file of pins, exclusions, schedules and caps (`Controls`), read again when
    it changes."""
    state: str | None = None
    """Directory of the release board, which all nodes see; null = a temporary one,
    so that a service that starts again begins with `bundle`."""
    releases: str | None = None
    """Directory of the bundles that POST /admin/releases may name."""
    admin_token_file: str | None = None
    """File with the token of the admin routes; null = the variable
    CACS_ADMIN_TOKEN, and without it the routes are off."""
    allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(check_host)], ...], BeforeValidator(_split)
    ] = Field(default=LOOPBACK_HOSTS, min_length=1)
    """Names under which the service answers (`Host` without its port), as a list or
    with commas between them; "*" = any."""
    model: str | None = None
    """Registered model of MLflow whose champion is followed; null = nobody's."""
    tracking_uri: str | None = None
    """MLflow, as for `Tracker.open`."""
    access_log: bool = False
    """One structured record for each decided request, in the replica's log."""
    experiment: ExperimentArgs = ExperimentArgs()
    """Arms and shadow."""

    @property
    def kinds(self) -> tuple[ReplicaKind, ...]:
        """The deployments that hold releases, gateway first."""
        if self.fused:
            return ("gateway",)
        if self.selector_in_gateway:
            return ("gateway", "ranker")
        return ("gateway", "selector", "ranker")

    @property
    def settings(self) -> DecisionSettings:
        """How the live release decides."""
        return DecisionSettings(
            policy=self.policy,
            num_slots=self.num_slots,
            epsilon=self.epsilon,
            thompson_prior=self.thompson_prior,
            reserve_micros=self.reserve_micros,
        )
