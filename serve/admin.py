"""Routes for whoever operates the service: releases. They need a token."""

import asyncio
import hmac
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request, Response

from cacs_ray.errors import InputError
from cacs_ray.manifest import read_manifest
from serve.api import ProblemReport, ReleaseRequest, ReleaseState
from serve.board import Board, Entry, ReleaseBoard
from serve.body import JSON, RefusalError, body_schema, read_model
from serve.gently import always, gently
from serve.holder import POLL_S

_POLL_S = 0.1
# Less than the time after which Ray Serve ends a request (request_timeout_s: 10).
_WAIT_S = 8.0
# After so long every gateway has looked at the board: who reads "live" can rely on it.
_FOLLOWED_S = POLL_S + 0.1
_STATUSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemReport}
    for status in (400, 401, 403, 404, 408, 409, 413, 415, 422, 503)
}


class Admin:
    """What the routes do.

    Args:
        board: of the service.
        releases: directory whose bundles may be asked for; None = none may.
        token: that a request must bring; None = the routes are off.
        is_busy: whether this gateway decides anything now.
    """

    def __init__(
        self,
        board: ReleaseBoard,
        releases: Path | None,
        token: str | None,
        *,
        is_busy: Callable[[], bool] = always,
    ) -> None:
        self._board, self._releases, self._token = board, releases, token
        self._is_busy = is_busy
        self._keeps = threading.Lock()

    def check(self, authorization: str | None) -> None:
        """Raise `RefusalError` unless the header carries the token."""
        if self._token is None:
            raise RefusalError(
                403, "no admin token is configured: these routes are off"
            )
        sent = re.fullmatch(r"Bearer (\S{1,512})", authorization or "")
        expected = self._token.encode()
        if not hmac.compare_digest((sent[1] if sent else "").encode(), expected):
            raise RefusalError(401, "the admin token is missing or wrong")

    def place(self, name: str) -> Path:
        """Return the bundle of a name, inside the directory for releases.

        Raises:
            RefusalError: there is none, or it leads out.
        """
        if self._releases is None:
            raise RefusalError(403, "no directory for releases is configured")
        root = self._releases.resolve()
        place = (root / name).resolve()
        if place.parent != root or not place.is_dir():
            raise RefusalError(404, "there is no such bundle")
        return place

    async def offer(self, name: str, wait_s: float) -> ReleaseState:
        """Ask for a swap and see how it goes until `wait_s` later.

        The bundle is copied first, however long that takes.

        Raises:
            RefusalError: not a whole bundle, or another one is on its way.
        """
        place = self.place(name)
        end_s = asyncio.get_running_loop().time() + wait_s
        try:
            await asyncio.to_thread(self._offer, place)
        except InputError as error:
            # What is live already was checked as well, and there is nothing to do.
            if error.rule != "already_live":
                raise RefusalError.of(error, 409) from error
        bundle_id = str(read_manifest(place)["bundle_id"])
        return await self._watch(bundle_id, end_s)

    def _offer(self, place: Path) -> None:
        # Those that waited here would take the threads that a roll-back needs.
        if not self._keeps.acquire(blocking=False):
            raise InputError(
                "another release is being copied: ask again", rule="swap_running"
            )
        try:
            # Not while the board is locked: all replicas would wait with this thread.
            with gently(self._is_busy):
                kept = self._board.keep(place)
            self._board.propose(kept)
        finally:
            self._keeps.release()

    async def roll_back(self) -> ReleaseState:
        """Make the release before the live one live again."""
        try:
            entry: Entry = await asyncio.to_thread(self._board.roll_back)
        except InputError as error:
            raise RefusalError.of(error, 409) from error
        await asyncio.sleep(_FOLLOWED_S)
        return self.state(entry.bundle_id)

    async def _watch(self, bundle_id: str, end_s: float) -> ReleaseState:
        loop = asyncio.get_running_loop()
        while (state := self.state(bundle_id)).status == "loading":
            if loop.time() >= end_s:
                break
            await asyncio.sleep(_POLL_S)
        if state.status == "live":
            await asyncio.sleep(_FOLLOWED_S)
        return state

    def state(self, bundle_id: str | None = None) -> ReleaseState:
        """Return the board as it is, and how it stands with one bundle.

        Raises:
            RefusalError: the board is damaged; the service goes on with what is live.
        """
        try:
            board = self._board.read()
        except InputError as error:
            raise RefusalError.of(error, 503) from error
        asked = bundle_id or board.live.bundle_id
        status, reason = _status(board, asked)
        return ReleaseState(
            status=status,
            bundle_id=asked,
            reason=reason,
            live=board.live.bundle_id,
            previous=board.previous.bundle_id if board.previous else None,
            next=board.next.bundle_id if board.next else None,
            swaps=board.swaps,
            replicas={
                name: list(held.held) for name, held in self._board.replicas().items()
            },
        )


def _status(board: Board, bundle_id: str) -> tuple[str, str | None]:
    if board.live.bundle_id == bundle_id:
        return "live", None
    if board.next is not None and board.next.bundle_id == bundle_id:
        return "loading", None
    return "refused", board.refusal(bundle_id) or "another release was taken"


def add_admin(http: FastAPI, admin: Admin) -> None:
    """Add the routes of an operator."""

    @http.get("/admin/releases", response_model=ReleaseState, responses=_STATUSES)
    async def releases(
        authorization: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Say what is live, what was before, and which replica holds what."""
        admin.check(authorization)
        return _answer(admin.state())

    @http.post(
        "/admin/releases",
        response_model=ReleaseState,
        responses={202: {"model": ReleaseState}, **_STATUSES},
        openapi_extra=body_schema("ReleaseRequest"),
    )
    async def offer(
        request: Request,
        *,
        wait_s: Annotated[
            float, Query(ge=0, le=120, description="how long to wait for the swap")
        ] = _WAIT_S,
        authorization: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Load a bundle in every replica, try it out, then make it live.

        202: it is still loading, see GET; 409: it was refused, and the old one
        serves on.
        """
        admin.check(authorization)
        asked = await read_model(request, ReleaseRequest)
        return _answer(await admin.offer(asked.bundle, wait_s))

    @http.post("/admin/rollback", response_model=ReleaseState, responses=_STATUSES)
    async def roll_back(
        authorization: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Make the release before the live one live again, at once."""
        admin.check(authorization)
        return _answer(await admin.roll_back())


def _answer(state: ReleaseState) -> Response:
    status = {"live": 200, "loading": 202, "refused": 409}[state.status]
    return Response(state.model_dump_json(), status, media_type=JSON)
