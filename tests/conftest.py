"""What all tests share: markers by folder, closed sockets, one local Ray."""

import logging
import os
import shutil
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("GOMP_SPINCOUNT", "100000")
os.environ.setdefault("MPLBACKEND", "Agg")
# A cluster or server of the developer must not be drawn into the tests.
for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)

TESTS = Path(__file__).parent
MARKED_FOLDERS = ("ray", "e2e")
RAY_CPUS = 3
"""Logical: two for Train workers and one for the data they read."""


LIBRARIES_WITH_OLD_HABITS = ("mlflow", "sqlalchemy", "alembic", "starlette")


def pytest_configure(config: pytest.Config) -> None:
    """Let libraries deprecate each other; our own code stays strict."""
    for name in LIBRARIES_WITH_OLD_HABITS:
        line = f"ignore::DeprecationWarning:{name}"
        config.addinivalue_line("filterwarnings", line)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark by folder, so that nobody forgets, before `-m` chooses by these marks."""
    if item.path.is_relative_to(TESTS):
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in MARKED_FOLDERS:
            item.add_marker(getattr(pytest.mark, folder))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what starts Ray come last; inside a folder the order stays random.

    A Ray that is up, and the environment it was started with, would change what unit
    tests see.
    """
    items.sort(key=_folder_order)


def _folder_order(item: pytest.Item) -> int:
    """Doctests and unit tests 0, then those that need Ray, then whole turns."""
    for order, folder in enumerate(MARKED_FOLDERS, start=1):
        if item.get_closest_marker(folder):
            return order
    return 0


@pytest.fixture(autouse=True)
def _seeded_torch() -> None:
    """Draw the same weights in every run; numpy and random are seeded already."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _closed_network(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refuse connections that leave the machine; unit tests may not connect at all."""
    is_unit = not any(request.node.get_closest_marker(m) for m in MARKED_FOLDERS)
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        is_local = self.family == socket.AF_UNIX or (
            isinstance(address, tuple)
            and str(address[0]).startswith(("127.", "::1", "localhost"))
        )
        if not is_local:
            pytest.fail(f"a test tried to leave the machine: {address}")
        if is_unit and self.family != socket.AF_UNIX:
            pytest.fail(f"a unit test tried to use the network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One private Ray for all tests that need one; nothing listens outside."""
    from cacs_ray.cluster import start_ray

    with start_ray(RAY_CPUS, object_store_bytes=200 * 2**20):
        yield


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database made ready once: that takes seconds, a copy none."""
    from cacs_ray.tracking.store import open_client

    made = tmp_path_factory.mktemp("mlflow") / "made.db"
    open_client(f"sqlite:///{made}")
    template = made.with_name("template.db")
    connection = sqlite3.connect(made)
    connection.execute("vacuum into ?", (str(template),))
    connection.close()
    return template


@pytest.fixture
def mlflow_uri(mlflow_template: Path, tmp_path: Path) -> str:
    """An empty tracking database of this test alone."""
    database = tmp_path / "mlruns" / "mlflow.db"
    database.parent.mkdir()
    shutil.copy(mlflow_template, database)
    return f"sqlite:///{database}"


@pytest.fixture
def kept_loggers() -> Iterator[None]:
    """Put the loggers back as they were: a replica takes those of its process over."""
    names = ("serve", "cacs_ray", "serve.access")
    loggers = [logging.getLogger(name) for name in names]
    kept = [(list(one.handlers), one.level, one.propagate) for one in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, kept, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
