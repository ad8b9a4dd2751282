"""The serving graph. This is the only file that says `bind`.

    serve run serve.app:build_app bundle=DIR

composed: HTTP -> gateway -> selector, ranker, each in replicas of its own.
fused: the same classes called in the gateway's replica; fewer processes and no
hops, for small machines.
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from fastapi import FastAPI
from pydantic import Field
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from cacs_ray.config import Config
from cacs_ray.decision.cascade import DecisionSettings
from cacs_ray.errors import InputError
from cacs_ray.schema import PolicyName
from serve.decision_log import DecisionLog
from serve.gateway import Gateway
from serve.http import create_http
from serve.metrics import Metrics
from serve.ranker import Ranker
from serve.release import Release, load_release
from serve.selector import Selector
from serve.stage import InProcess, LoadPredictor, Stages, load_predictor

LoadRelease = Callable[[], Release]
Handle = DeploymentHandle[Any]


class AppArgs(Config):
    """What `serve run serve.app:build_app key=value` may set."""

    bundle: str
    """Directory of the bundle to serve; the same on every node."""
    budget_ms: float = Field(default=50.0, gt=0, le=10_000)
    """Time to answer in, unless a request brings its own."""
    fused: bool = False
    """All stages in the gateway's process instead of one deployment each."""
    decision_log: str | None = None
    """Directory of the decision log; without it decisions are not kept."""
    num_slots: int = Field(default=3, ge=1, le=100)
    """Places on a page, unless a request says."""
    epsilon: float = Field(default=0.0, ge=0, le=1)
    """Share of uniform choice, see `DecisionSettings`."""
    policy: PolicyName = "cacs"
    """How creatives are chosen and when."""
    reserve_micros: int = Field(default=1, ge=1)
    """Least price of a click."""


class HttpGateway:
    """A gateway with its HTTP application, in a replica."""

    def __init__(
        self,
        args: AppArgs,
        load_release: LoadRelease,
        load_predictor: LoadPredictor | None,
        *handles: Handle,
    ) -> None:
        metrics = Metrics()
        log = DecisionLog(args.decision_log, metrics) if args.decision_log else None
        stages = (
            _fused_stages(load_predictor)
            if load_predictor
            else _remote_stages(*handles)
        )
        self._gateway = Gateway(
            load_release(),
            stages,
            DecisionSettings(
                policy=args.policy,
                num_slots=args.num_slots,
                epsilon=args.epsilon,
                reserve_micros=args.reserve_micros,
            ),
            budget_s=args.budget_ms / 1e3,
            log=log,
            metrics=metrics,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; built here because routes cannot be pickled."""
        return create_http(self._gateway)

    def __del__(self) -> None:
        # Serve calls this when a replica has answered its last request.
        gateway = getattr(self, "_gateway", None)
        if gateway is not None:
            gateway.close()


def build_app(args: AppArgs) -> Application:
    """Return the graph for one bundle.

    Raises:
        ClickException: the bundle is not one, or is damaged.
    """
    bundle = Path(args.bundle).resolve()
    try:
        load_release(bundle)
    except InputError as error:
        # The program `serve` prints this kind alone on one line, without a trace.
        raise click.ClickException(str(error)) from None
    kept = {"bundle": str(bundle)}
    if args.decision_log is not None:
        kept["decision_log"] = str(Path(args.decision_log).resolve())
    return compose(
        args.override(kept),
        partial(load_release, bundle),
        partial(load_predictor, bundle),
    )


def compose(
    args: AppArgs, load_release: LoadRelease, load_predictor: LoadPredictor
) -> Application:
    """Return the graph over any loaders; a test passes its own."""
    gateway = _deployment(serve.ingress()(HttpGateway), "Gateway", num_cpus=0.2)
    if args.fused:
        return gateway.bind(args, load_release, load_predictor)
    selector = _deployment(Selector, "Selector", num_cpus=0.2)
    ranker = _deployment(Ranker, "Ranker", num_cpus=0.2)
    return gateway.bind(
        args,
        load_release,
        None,
        selector.bind(load_predictor),
        ranker.bind(load_predictor),
    )


def _deployment(target: type, name: str, *, num_cpus: float) -> Any:  # noqa: ANN401
    """Return a deployment with bounded queues; `config.yaml` may override it all."""
    return serve.deployment(
        name=name,
        num_replicas=1,
        ray_actor_options={"num_cpus": num_cpus},
        max_ongoing_requests=16,
        # More would only wait past their deadline: say so at once instead.
        max_queued_requests=64,
        backpressure_config={"status_code": 503, "retry_after_s": 1},
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=15.0,
        health_check_period_s=5.0,
        health_check_timeout_s=10.0,
        max_surge_percent=100,
        logging_config={"enable_access_log": False, "log_level": logging.WARNING},
    )(target)


def _remote_stages(selector: Handle, ranker: Handle) -> Stages:
    return Stages(
        selector_scores=selector.selector_scores,
        teacher_scores=ranker.teacher_scores,
        pctr=ranker.pctr,
    )


def _fused_stages(load: LoadPredictor) -> Stages:
    predictor = load()
    selector, ranker = Selector(lambda: predictor), Ranker(lambda: predictor)
    return Stages(
        selector_scores=InProcess(selector.selector_scores),
        teacher_scores=InProcess(ranker.teacher_scores),
        pctr=InProcess(ranker.pctr),
    )
