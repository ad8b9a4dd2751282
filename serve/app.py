"""The serving graph. This is the only file that says `bind`.

    serve run serve.app:build_app bundle=DIR

composed: HTTP -> gateway -> selector, ranker, each in replicas of its own.
fused: the same classes called in the gateway's replica; fewer processes and no
hops, for small machines.
selector in the gateway: rankers in replicas of their own, without a hop for selection.
"""

import atexit
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import click
from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from cacs_ray.errors import InputError
from serve.admin import Admin
from serve.arguments import AppArgs
from serve.arms import make_arms
from serve.batched import Answerer, Asked, Batched
from serve.board import ReleaseBoard, ReplicaKind
from serve.clicks import Clicks, FirstPlaces
from serve.controls_file import ControlsFile
from serve.decision_log import ClickLog, DecisionLog, RowLog
from serve.display import open_dataset
from serve.evidence import EvidenceSource
from serve.follower import Champions, Follower, open_registry
from serve.fused import in_process, local_stages
from serve.gateway import Gateway, Logs, Rules, ServedRelease
from serve.holder import Holder
from serve.http import create_http
from serve.lasting import spare_what_lasts
from serve.loopback import listen_on_loopback
from serve.metrics import Metrics
from serve.metrics_board import MetricsBoard
from serve.page import PageSource
from serve.ranker import Ranker
from serve.records import configure_records
from serve.selector import Selector
from serve.stage import InProcess, StageAnswer, StageMethod, StageRelease, Stages
from serve.straight import LocalStages, Straight
from serve.stray_clicks import StrayClicks
from serve.wiring import Wiring, wire

Handle = DeploymentHandle[Any]

HANGS_S = 60.0
"""A decision or a stage that still runs after so long does not end any more."""

TOKEN_VARIABLE = "CACS_ADMIN_TOKEN"


class HttpGateway:
    """A gateway with its HTTP application, in a replica."""

    def __init__(
        self,
        wiring: Wiring,
        follower: Handle | None,  # noqa: ARG002 - runs because it is bound here
        selector: Handle | None = None,
        ranker: Handle | None = None,
    ) -> None:
        listen_on_loopback()
        args, metrics = wiring.args, Metrics()
        places = FirstPlaces() if args.click_log else None
        configure_records(has_access=args.access_log)
        self._gateway: Gateway | None = None
        self._releases = Holder(
            wiring.board,
            "gateway",
            lambda path: _held_by_gateway(wiring, path),
            is_busy=self._is_busy,
        )
        local = None if selector else local_stages(self._releases)
        self._straight = Straight(local) if local and ranker is None else None
        stages = _stages(local, selector, ranker, args.stage_calls)
        self._may_hang: list[Straight | InProcess] = [*stages.in_process]
        if self._straight is not None:
            self._may_hang.append(self._straight)
        self._gateway = Gateway(
            self._releases,
            stages,
            _rules(wiring),
            logs=replace(_logs(wiring, metrics), first_places=places),
            metrics=metrics,
            straight=self._straight,
        )
        beside = wiring.board.directory / "metrics"
        self._metrics_board = MetricsBoard(beside, metrics)
        self._clicks = (
            Clicks(
                ClickLog(args.click_log, metrics),
                metrics,
                places,
                StrayClicks(beside, self._metrics_board.name),
            )
            if args.click_log
            else None
        )
        root = None if args.releases is None else Path(args.releases)
        self._admin = Admin(
            wiring.board, root, _admin_token(args), is_busy=self._is_busy
        )
        self._allowed_hosts = args.allowed_hosts
        # A replica that is told to end may go without the call of `__del__`, and what
        # is spared from collections is not collected at the end of a process either.
        atexit.register(self.close)
        self._page = PageSource(
            open_dataset(args.dataset),
            EvidenceSource(args.decision_log, args.click_log),
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; built here because routes cannot be pickled."""
        assert self._gateway is not None
        http = create_http(
            self._gateway,
            clicks=self._clicks,
            admin=self._admin,
            page=self._page,
            metrics_page=self._metrics_board.page,
            allowed_hosts=self._allowed_hosts,
        )
        spare_what_lasts()
        return http

    async def check_health(self) -> None:
        """Let Ray Serve replace this replica when it cannot mend itself.

        A stage that fails is no reason: its requests get fallbacks, and a new replica
        would meet the same bundle.

        Raises:
            RuntimeError: a stage hangs, or releases are followed no more.
        """
        hangs_s = max((one.hangs_s for one in self._may_hang), default=0.0)
        if hangs_s > HANGS_S:
            raise RuntimeError(f"a decision or a stage hangs for {hangs_s:.0f} s")
        _check_following(self._releases)

    def _is_busy(self) -> bool:
        """Whether anything is being decided; asked from other threads."""
        return self._gateway is not None and not self._gateway.places.is_idle

    def __del__(self) -> None:
        # Serve calls this when a replica has answered its last request.
        self.close()

    def close(self) -> None:
        """Write what the logs still hold and leave the board."""
        atexit.unregister(self.close)
        for name in ("_releases", "_gateway", "_clicks", "_metrics_board"):
            part = getattr(self, name, None)
            if part is not None:
                part.stop() if name == "_releases" else part.close()


class _StageReplica(ABC):
    """A replica of a stage, which follows the board.

    It answers in its event loop: in threads, as Serve runs plain methods, answers
    that are computed side by side take turns at the interpreter and all of them end
    late.
    """

    kind: ClassVar[ReplicaKind]

    def __init__(self, wiring: Wiring) -> None:
        listen_on_loopback()
        configure_records()
        self._holder = Holder(wiring.board, self.kind, _stage_loader(wiring))
        self._answerer = Answerer(self._methods())
        spare_what_lasts()

    async def answer(self, questions: list[Asked]) -> list[StageAnswer]:
        """Answer what several requests ask, as `Answerer.answer`."""
        return await self._answerer.answer(questions)

    async def check_health(self) -> None:
        """Let Ray Serve replace this replica when releases are followed no more.

        A pass through a model that hangs holds the loop in which this runs, so that
        Ray Serve gets no answer and replaces the replica too.

        Raises:
            RuntimeError: releases are followed no more.
        """
        _check_following(self._holder)

    @abstractmethod
    def _methods(self) -> dict[str, StageMethod]:
        """Return what the stage answers, by name."""


class SelectorReplica(_StageReplica):
    """A selector that follows the board."""

    kind = "selector"

    def _methods(self) -> dict[str, StageMethod]:
        return {"selector_scores": Selector(self._holder).selector_scores}


class RankerReplica(_StageReplica):
    """A ranker that follows the board."""

    kind = "ranker"

    def _methods(self) -> dict[str, StageMethod]:
        ranker = Ranker(self._holder)
        return {
            "open_page": ranker.open_page,
            "pctr": ranker.pctr,
            "teacher_scores": ranker.teacher_scores,
        }


class FollowerReplica(Follower):
    """A follower in a replica."""

    def __init__(
        self,
        board: ReleaseBoard,
        open_registry: Callable[[], Champions],
        cache: Path,
    ) -> None:
        listen_on_loopback()
        super().__init__(board, open_registry, cache)


def build_app(args: AppArgs) -> Application:
    """Return the graph for one bundle.

    Raises:
        ClickException: a bundle is not one, or is damaged.
    """
    try:
        return compose(wire(args))
    except InputError as error:
        # The program `serve` prints this kind alone on one line, without a trace.
        raise click.ClickException(str(error)) from None


def compose(wiring: Wiring) -> Application:
    """Return the graph over a board that has begun; a test passes its own loaders."""
    args = wiring.args
    # What it lets in it bounds itself, see `serve.admit`.
    gateway = _deployment(
        serve.ingress()(HttpGateway), "Gateway", num_cpus=0.2, max_ongoing=256
    )
    following = None
    if args.model is not None:
        cache = wiring.board.directory / "bundles"
        registry = partial(open_registry, args.tracking_uri, args.model)
        follower = _deployment(FollowerReplica, "Follower", num_cpus=0)
        following = follower.bind(wiring.board, registry, cache)
    replicas: dict[ReplicaKind, type] = {
        "selector": SelectorReplica,
        "ranker": RankerReplica,
    }
    handles: dict[str, Any] = {
        kind: _deployment(replica, kind.capitalize(), num_cpus=0.2).bind(wiring)
        for kind, replica in replicas.items()
        if kind in args.kinds
    }
    return gateway.bind(wiring, following, **handles)


def _deployment(
    target: type, name: str, *, num_cpus: float, max_ongoing: int = 64
) -> Any:  # noqa: ANN401
    """Return a deployment with bounded queues; `config.yaml` may override it all."""
    return serve.deployment(
        name=name,
        num_replicas=1,
        ray_actor_options={"num_cpus": num_cpus},
        max_ongoing_requests=max_ongoing,
        # More would only wait past their deadline: say so at once instead.
        max_queued_requests=max_ongoing,
        backpressure_config={"status_code": 503, "retry_after_s": 1},
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=15.0,
        health_check_period_s=0.5,
        health_check_timeout_s=10.0,
        max_surge_percent=100,
        logging_config={"enable_access_log": False, "log_level": logging.WARNING},
    )(target)


def _held_by_gateway(wiring: Wiring, path: str) -> ServedRelease:
    has_stage = "selector" not in wiring.args.kinds
    stage = StageRelease(wiring.load_predictor(path)) if has_stage else None
    return ServedRelease(wiring.load_release(path), stage)


def _check_following(holder: Holder[Any]) -> None:
    if not holder.is_following:
        raise RuntimeError("the release board is followed no more")


def _stage_loader(wiring: Wiring) -> Callable[[str], StageRelease]:
    return lambda path: StageRelease(wiring.load_predictor(path))


def _stages(
    local: LocalStages | None,
    selector: Handle | None,
    ranker: Handle | None,
    most_calls: int,
) -> Stages:
    """Return the stages by handles, and those in this process that have none."""
    selecting, ranking = (
        None if one is None else Batched(one.answer, most_calls)
        for one in (selector, ranker)
    )
    if local is not None:
        here = in_process(local)
        if ranking is None:
            return here
        # The ranker opens no page while it waits for a selector as quick as this one.
        return replace(
            here,
            teacher_scores=ranking.method("teacher_scores"),
            pctr=ranking.method("pctr"),
        )
    assert selecting is not None
    assert ranking is not None
    return Stages(
        selector_scores=selecting.method("selector_scores"),
        teacher_scores=ranking.method("teacher_scores"),
        pctr=ranking.method("pctr"),
        open_page=ranking.ahead("open_page"),
    )


def _rules(wiring: Wiring) -> Rules:
    args = wiring.args
    return Rules(
        make_arms(args.experiment, args.settings, wiring.bundle_ids),
        args.budget_ms / 1e3,
        ControlsFile(args.controls) if args.controls else None,
        args.max_in_flight,
        args.max_in_full,
        args.max_in_burst,
        args.orders,
    )


def _logs(wiring: Wiring, metrics: Metrics) -> Logs:
    args, shadow = wiring.args, wiring.args.experiment.shadow
    return Logs(
        DecisionLog(args.decision_log, metrics) if args.decision_log else None,
        wiring.bundle_ids[shadow] if shadow else None,
        RowLog(args.shadow_log, "decisions", metrics.shadow_log)
        if shadow and args.shadow_log
        else None,
    )


def _admin_token(args: AppArgs) -> str | None:
    if args.admin_token_file is not None:
        return Path(args.admin_token_file).read_text().strip() or None
    return os.environ.get(TOKEN_VARIABLE) or None
