"""Jobs on a private cluster in token mode: who may submit them, and how they end."""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from ray._private.runtime_env.packaging import create_package

from cacs_ray.local_server import LOOPBACK, free_port, wait_until_healthy
from cacs_ray.promises.service import wait_until
from jobs import simulate

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
MAX_PACKAGE_BYTES = 10 * 2**20
READING = [("GET", "/api/jobs/"), ("GET", "/api/v0/tasks"), ("GET", "/nodes")]
CHANGING = [
    ("POST", "/api/jobs/"),
    ("POST", "/api/jobs/any/stop"),
    ("DELETE", "/api/jobs/any"),
    ("PUT", "/api/packages/gcs/_ray_pkg_0123456789abcdef.zip"),
]


@dataclass(frozen=True)
class Head:
    """A head node, with ways to ask it."""

    url: str
    process: subprocess.Popen
    environment: dict

    def ask(self, method, path, body=None, **headers):
        """Ask without the token, unless a header holds it."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{self.url}{path}"
        return httpx.request(method, url, json=body, headers=named, timeout=20)

    @property
    def bearer(self):
        return f"Bearer {self.environment['RAY_AUTH_TOKEN']}"

    def told(self, path):
        answer = self.ask("GET", path, authorization=self.bearer)
        return answer.raise_for_status().json()

    def log(self, job):
        return self.told(f"/api/jobs/{job}/logs")["logs"].splitlines()

    def ray_job(self, verb, *arguments):
        return subprocess.run(
            [RAY, "job", verb, "--address", self.url, *arguments],
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=90,
        )

    def submit(self, job, *arguments, options=()):
        given = ["--submission-id", job, "--working-dir", ROOT, *options]
        return self.ray_job("submit", *given, "--", "python", "-m", *arguments)

    def command_lines(self):
        """Return what the processes of the cluster were started with."""
        lines = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                lines.append(" ".join(process.cmdline()))
        return lines


def token_environment(temporary):
    """Return this process's environment, with nothing of the Ray that it may run."""
    own = ("RAY_ADDRESS", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in own}
    return kept | {
        # Ray finds the `python` of an entrypoint there.
        "PATH": os.pathsep.join([str(RAY.parent), os.environ["PATH"]]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Else a job that needs longer to end in order is killed after three seconds.
        "RAY_JOB_STOP_WAIT_TIME_S": "30",
        "RAY_TMPDIR": temporary,
    }


@contextmanager
def started_head(temporary):
    """Run a head in the foreground, so that what it started is known and ends."""
    environment, ports = token_environment(temporary), set()
    while len(ports) < 3:
        ports.add(free_port())
    gcs, dashboard, client = ports
    log = Path(temporary) / "head.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                *[RAY, "start", "--head", "--block", f"--temp-dir={temporary}"],
                *[f"--port={gcs}", f"--ray-client-server-port={client}"],
                *[f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard}"],
                # Any free one: no range that could meet the ports above.
                *["--min-worker-port=0", "--max-worker-port=0"],
                *["--dashboard-agent-listen-port=0", "--disable-usage-stats"],
                *["--num-cpus=2", f"--object-store-memory={200 * 2**20}"],
            ],
            cwd=temporary,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        url = f"http://{LOOPBACK}:{dashboard}"
        wait_until_healthy(process, f"{url}/api/gcs_healthz", log, 60)
        yield Head(url, process, environment)
    finally:
        stop(process)


def stop(process):
    """End a head and what it started, by their ids; nothing else is touched."""
    descendants = []
    with suppress(psutil.NoSuchProcess):
        descendants = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(2)
    process.kill()
    process.wait()
    for one in descendants:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(descendants, timeout=10)


@pytest.fixture(scope="module")
def head():
    # Short, because paths of sockets below it must fit 107 characters.
    with (
        tempfile.TemporaryDirectory(
            prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
        ) as temporary,
        started_head(temporary) as made,
    ):
        yield made


@pytest.mark.parametrize("host", [None, "evil.example"])
@pytest.mark.parametrize(("token", "status"), [(None, 401), ("0" * 64, 403)])
def test_who_has_no_token_is_told_nothing_and_changes_nothing(
    head, tmp_path, host, token, status
):
    headers = {"host": host} if host else {}
    if token:
        headers["authorization"] = f"Bearer {token}"
    body = {"entrypoint": f"touch {tmp_path / 'marker'}"}
    for method, path in READING + CHANGING:
        assert head.ask(method, path, body, **headers).status_code == status, path
    if token:
        cookie = {"cookie": f"ray-authentication-token={token}"}
        assert head.ask("POST", "/api/jobs/", body, **cookie).status_code == status
    assert body["entrypoint"] not in str(head.told("/api/jobs/"))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("host", [None, "evil.example"])
@pytest.mark.parametrize(
    "sign",
    [
        {"origin": "http://evil.example"},
        {"referer": "http://evil.example/"},
        {"sec_fetch_site": "cross-site"},
        {"user_agent": "Mozilla/5.0"},
    ],
    ids=lambda sign: next(iter(sign)),
)
def test_a_browser_changes_nothing_even_with_the_token(head, tmp_path, host, sign):
    headers = sign | ({"host": host} if host else {}) | {"authorization": head.bearer}
    body = {"entrypoint": f"touch {tmp_path / 'marker'}"}
    for method, path in CHANGING:
        assert head.ask(method, path, body, **headers).status_code == 405, path
    assert body["entrypoint"] not in str(head.told("/api/jobs/"))
    assert not (tmp_path / "marker").exists()


def test_a_job_that_fails_exits_non_zero_with_its_reason_last(head, tmp_path):
    out = str(tmp_path / "run")
    cycle = ["jobs.cycle", "--logs", "/nonexistent", "--out", out, "--recipe", "smoke"]
    done = head.submit("failing", *cycle)

    assert done.returncode == 1, done.stderr
    last = head.log("failing")[-1]
    assert last in done.stdout
    said = json.loads(last)
    assert said["status"] == "error"
    assert "/nonexistent" in said["error"]
    assert head.told("/api/jobs/failing")["driver_exit_code"] == 1
    assert not (tmp_path / "run").exists()


def test_a_job_that_is_stopped_leaves_no_process_behind(head, tmp_path):
    market, out = str(tmp_path / "market"), str(tmp_path / "run")
    assert simulate.main(["--out", market, "--recipe", "smoke"]) == 0
    cycle = ["jobs.cycle", "--logs", market, "--out", out, "--recipe", "smoke"]
    tracking = ["--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    submitted = head.submit("stopped", *cycle, *tracking, options=["--no-wait"])
    assert submitted.returncode == 0, submitted.stderr
    wait_until(lambda: "validate" in "".join(head.log("stopped")), 40, "no stage yet")
    assert any(out in line for line in head.command_lines())

    assert head.ray_job("stop", "stopped").returncode == 0

    assert head.told("/api/jobs/stopped")["status"] == "STOPPED"
    assert json.loads(head.log("stopped")[-1])["error"] == "interrupted"
    wait_until(
        lambda: not any(out in line for line in head.command_lines()), 40, "it goes on"
    )


def test_only_code_travels_with_a_job(tmp_path):
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True)
    assert package.stat().st_size < MAX_PACKAGE_BYTES
    with zipfile.ZipFile(package) as opened:
        names = opened.namelist()
    assert {"jobs/cycle.py", "cacs_ray/command.py", "serve/app.py"} <= set(names)
    top = {name.partition("/")[0] for name in names}
    assert not top & {".git", ".venv", "docs", "out", "tests", "mlruns"}
