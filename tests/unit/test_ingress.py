"""What the way in promises: one machine's graph is heard on that machine alone."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cacs_ray.ingress import ingress_environment

WRAPPER = Path(__file__).parents[2] / "serve" / "haproxy_on_loopback.sh"
CONFIG = """global
    stats socket /tmp/admin.sock mode 666 level admin expose-fd listeners
frontend prometheus
    bind :9101
frontend http_frontend
    bind 0.0.0.0:8000
listen stats
  bind *:8404
"""


def test_what_is_for_operators_listens_on_loopback_and_obeys_its_owner(tmp_path):
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    ran = subprocess.run(
        [WRAPPER, "-db", "-f", config, "-sf", "7"],
        env={**os.environ, "CACS_HAPROXY": "/bin/echo"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == f"-db -f {config} -sf 7\n"
    bound = re.findall(r"bind (\S+)", config.read_text())
    # Where requests come in is the operator's own choice.
    assert bound == ["127.0.0.1:9101", "0.0.0.0:8000", "127.0.0.1:8404"]
    assert "mode 600 level admin" in config.read_text()


def test_the_wrapper_finds_the_binary_that_came_with_ray():
    home = Path(sys.executable).parent
    env = {"PATH": f"{home}:{os.environ['PATH']}"}
    ran = subprocess.run([WRAPPER, "-v"], env=env, capture_output=True, check=True)
    assert ran.stdout.startswith(b"HAProxy")


def test_the_template_of_ray_serve_is_still_what_the_wrapper_reads():
    templates = pytest.importorskip("ray.serve._private.haproxy_templates")
    text = Path(templates.__file__).read_text()
    assert "bind *:{{ config.stats_port }}" in text
    assert "bind :{{ config.metrics_port }}" in text
    assert text.count("bind *:") + text.count("bind :") == 2
    assert "mode 666 level admin" in text


def test_what_is_set_already_wins(monkeypatch):
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    assert ingress_environment()["RAY_SERVE_ENABLE_HA_PROXY"] == "0"


def test_every_port_of_ray_serve_is_a_graphs_own():
    """A port that two graphs share lets one answer what the other was asked."""
    constants = pytest.importorskip("ray.serve._private.constants")
    told = ingress_environment()
    # On one machine there are no worker nodes.
    ports = re.compile(r"RAY_SERVE_(?!WORKER)\w*_PORT")
    known = {name for name in vars(constants) if ports.fullmatch(name)}
    assert known <= set(told)


def test_ray_serve_still_reads_what_shall_be_asked_again():
    constants = pytest.importorskip("ray.serve._private.constants")
    told = ingress_environment()
    assert told["RAY_SERVE_HAPROXY_RETRY_ON"].split() == [
        constants.RAY_SERVE_HAPROXY_RETRY_ON,
        "empty-response",
    ]
    assert int(told["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"]) > (
        constants.RAY_SERVE_HAPROXY_TUNE_BUFSIZE
    )


def test_a_shell_can_read_it():
    shown = subprocess.run(
        [
            *["/bin/sh", "-c"],
            f'eval "$({sys.executable} -m cacs_ray.ingress)"; '
            'test -x "$RAY_SERVE_HAPROXY_BINARY_PATH" && "$CACS_HAPROXY" -v',
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith("HAProxy")


@pytest.fixture
def standing_in(tmp_path):
    """A program in HAProxy's place: it is told the same and waits."""
    stand_in = tmp_path / "stand_in"
    stand_in.write_text(
        f"""#!/bin/sh
[ "$1" = -c ] && exit
echo $$ > {tmp_path}/pid
exec {sys.executable} -c 'import time; time.sleep(60)' "$@"
"""
    )
    stand_in.chmod(0o755)
    return stand_in


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="read from /proc")
def test_a_new_actor_takes_over_from_the_haproxy_of_a_dead_one(tmp_path, standing_in):
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG + "# what the first one knew at last\n")
    told = [str(WRAPPER), "-db", "-f", str(config)]
    with subprocess.Popen(
        told, env={**os.environ, "CACS_HAPROXY": str(standing_in)}
    ) as first:
        assert waits_as(tmp_path) == first.pid
        # Ray ends the process group of an actor that died.
        assert os.getsid(first.pid) == first.pid
        config.write_text(CONFIG)
        assert started(told) == f"-db -f {config} -x /tmp/admin.sock -sf {first.pid}\n"
        assert config.read_text().endswith("# what the first one knew at last\n")
        # The second has ended without being told of a replica: taking over fails.
        assert started(told) == f"-db -f {config}\n"
        assert first.wait(20) == -signal.SIGKILL


def started(told):
    """Start what tells its arguments in HAProxy's place."""
    environment = {**os.environ, "CACS_HAPROXY": "/bin/echo"}
    return subprocess.run(
        told, env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="read from /proc")
def test_haproxy_ends_with_the_raylet(tmp_path, standing_in):
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    # The shells stand in for raylet and actor: neither may become the other.
    actor = f"{WRAPPER} -db -f {config} & wait"
    with subprocess.Popen(
        ["/bin/sh", "-c", f"/bin/sh -c '{actor}; true' & echo $!; wait"],
        env={**os.environ, "CACS_HAPROXY": str(standing_in)},
        stdout=subprocess.PIPE,
        text=True,
    ) as raylet:
        actor_pid = int(raylet.stdout.readline())
        haproxy = os.pidfd_open(waits_as(tmp_path))
        os.kill(actor_pid, signal.SIGKILL)
        assert not select.select([haproxy], [], [], 0.2)[0]
        raylet.kill()
        assert select.select([haproxy], [], [], 20)[0]
    os.close(haproxy)


def waits_as(tmp_path):
    """Return the process of a stand-in that is started by now."""
    file, ends = tmp_path / "pid", time.monotonic() + 20
    while not (file.exists() and b"sleep" in cmdline(file.read_text().strip())):
        assert time.monotonic() < ends
        select.select([], [], [], 0.02)
    return int(file.read_text())


def cmdline(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes() if pid else b""
