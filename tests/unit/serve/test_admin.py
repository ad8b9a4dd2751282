"""What the operator's routes promise: a token, confined names, and honest answers."""

import asyncio
import sys

import httpx
import pytest
from filelock import FileLock

from cacs_ray.manifest import write_manifest
from serve import admin as admin_module
from serve.admin import Admin
from serve.board import Held, ReleaseBoard
from serve.body import RefusalError
from serve.http import create_http
from tests.unit.serve.conftest import entry

TOKEN = {"authorization": "Bearer secret"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(admin_module, "_FOLLOWED_S", 0.0)
    monkeypatch.setattr(admin_module, "_POLL_S", 0.001)


@pytest.fixture
def releases(tmp_path):
    for name in ("old", "new"):
        root = tmp_path / "releases" / name
        root.mkdir(parents=True)
        (root / "weights").write_text(name)
        write_manifest(root, "spec", {})
    return tmp_path / "releases"


def bundle_id(root):
    return entry(root).bundle_id


@pytest.fixture
def board(tmp_path, releases):
    board = ReleaseBoard(tmp_path / "board")
    board.begin(entry(releases / "old"), ("gateway",))
    return board


@pytest.fixture
def send(make_service, board, releases):
    def ask(method, path, body=None, headers=None, *, token="secret"):
        admin = Admin(board, releases, token)
        http = create_http(make_service().gateway, admin=admin)

        async def run():
            transport = httpx.ASGITransport(http, raise_app_exceptions=False)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://serve"
            ) as client:
                return await client.request(method, path, json=body, headers=headers)

        return asyncio.run(run())

    return ask


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/releases"),
        ("POST", "/admin/releases"),
        ("POST", "/admin/rollback"),
    ],
)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "secret"},
        {"authorization": "Basic secret"},
        {"authorization": "Bearer secret extra"},
        {"authorization": "Bearer "},
    ],
)
def test_without_the_token_nothing_is_told_or_done(send, board, method, path, headers):
    before = board.read()
    answer = send(method, path, {"bundle": "new"}, headers)
    assert answer.status_code == 401
    assert board.read() == before
    assert before.live.bundle_id not in answer.text


def test_without_a_configured_token_the_routes_are_off(send):
    assert send("GET", "/admin/releases", headers=TOKEN, token=None).status_code == 403


@pytest.mark.parametrize(
    "name",
    [
        "../board",
        "..",
        ".",
        "/etc",
        "a/b",
        "%2e%2e",
        "new\0",
        "",
        "-",
        "link",
        "missing",
    ],
)
def test_names_cannot_leave_the_directory(send, board, releases, tmp_path, name):
    (releases / "link").symlink_to(tmp_path)
    answer = send("POST", "/admin/releases", {"bundle": name}, TOKEN)
    assert answer.status_code in (404, 422)
    assert board.read().next is None


def test_a_swap_that_goes_on_is_told_so(send, board, releases):
    board.say("one", Held(kind="gateway", held=(board.read().live.bundle_id,)))

    answer = send("POST", "/admin/releases?wait_s=0", {"bundle": "new"}, TOKEN)

    assert (answer.status_code, answer.json()["status"]) == (202, "loading")
    assert answer.json()["next"] == bundle_id(releases / "new")


def test_a_bundle_is_copied_gently_and_the_board_is_not_locked_meanwhile(
    board, releases, monkeypatch
):
    seen = []

    def noting(method):
        def call(*args):
            with FileLock(board.directory / "board.lock", timeout=0):
                seen.append((method.__name__, sys.getprofile() is not None))
            return method(*args)

        return call

    monkeypatch.setattr(board, "keep", noting(board.keep))
    monkeypatch.setattr(board, "propose", noting(board.propose))
    admin = Admin(board, releases, "secret")
    asyncio.run(admin.offer("new", 0.0))
    assert seen == [("keep", True), ("propose", False)]


def test_a_second_offer_does_not_wait_for_the_copy_of_the_first(
    board, releases, monkeypatch
):
    admin = Admin(board, releases, "secret")
    keep = board.keep

    def offered_meanwhile(path):
        with pytest.raises(RefusalError) as refused:
            asyncio.run(admin.offer("new", 0.0))
        assert refused.value.status == 409
        assert "being copied" in str(refused.value.report)
        return keep(path)

    monkeypatch.setattr(board, "keep", offered_meanwhile)
    assert asyncio.run(admin.offer("new", 0.0)).status == "loading"
    monkeypatch.setattr(board, "keep", keep)
    assert asyncio.run(admin.offer("new", 0.0)).status == "loading"


def test_a_swap_is_answered_when_it_is_done(send, board, releases):
    new = bundle_id(releases / "new")
    board.offer(releases / "new")
    board.say("one", Held(kind="gateway", held=(new,)))
    board.settle()

    answer = send("POST", "/admin/releases", {"bundle": "new"}, TOKEN).json()

    assert (answer["status"], answer["live"], answer["swaps"]) == ("live", new, 1)
    assert answer["replicas"] == {"gateway-one": [new]}


def test_a_broken_bundle_is_refused_with_its_reason(send, board, releases):
    (releases / "new" / "weights").write_text("torn")
    before = board.read()

    answer = send("POST", "/admin/releases", {"bundle": "new"}, TOKEN)

    assert answer.status_code == 409
    assert answer.json()["problems"][0]["rule"] == "digest"
    assert board.read() == before


def test_rolling_back_is_one_call(send, board, releases):
    assert send("POST", "/admin/rollback", headers=TOKEN).status_code == 409
    board.offer(releases / "new")
    board.say("one", Held(kind="gateway", held=(bundle_id(releases / "new"),)))
    board.settle()

    answer = send("POST", "/admin/rollback", headers=TOKEN)

    assert answer.json()["live"] == bundle_id(releases / "old")


def test_a_damaged_board_is_told_and_no_crash(send, board):
    (board.directory / "board.json").write_text('{"live": ')
    answer = send("GET", "/admin/releases", headers=TOKEN)
    assert answer.status_code == 503
    assert "board.json" in answer.text


def test_whatever_a_route_of_an_operator_answers_is_described(send):
    paths = send("GET", "/openapi.json").json()["paths"]
    missing = {
        status
        for path, operations in paths.items()
        if path.startswith("/admin/")
        for operation in operations.values()
        for status in ({"408", "503"} - set(operation["responses"]))
    }
    assert missing == set()
